"""Buffers for contents."""

import ctypes
import mmap
import random

import pytest
from xxhash import xxh3_64_intdigest

from thincow.engine.buffers import REQUEST_BYTES, BlockBuffer, hash_blocks, new_buffer


@pytest.mark.parametrize("length", [512, 1 << 20, (1 << 20) + 512])
def test_buffer_begins_with_a_page(length):
    buffer = new_buffer(length)
    assert len(buffer) == length
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0


@pytest.mark.parametrize("block_size", [512, 4096, REQUEST_BYTES, 4 * REQUEST_BYTES])
@pytest.mark.parametrize("count", [1, 2, 9, 300])
def test_each_block_is_hashed(block_size, count):
    count = max(1, min(count, 4 * REQUEST_BYTES // block_size))
    data = random.Random(7).randbytes(count * block_size)
    hashes = [
        xxh3_64_intdigest(data[at : at + block_size]) for at in range(0, len(data), block_size)
    ]
    assert hash_blocks(data, block_size) == hashes
    assert hash_blocks(memoryview(data), block_size) == hashes
    buffer = BlockBuffer(block_size, count + 1)
    buffer.data[: len(data)] = data
    assert buffer.hashes(0, count) == hashes
    assert buffer.hashes(1, count)[:-1] == hashes[1:]
