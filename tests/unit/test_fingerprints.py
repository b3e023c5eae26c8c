import errno
from pathlib import Path
from unittest.mock import Mock

import pytest
import xxhash

from thincow.block_types import DeviceId, first_address
from thincow.engine.fingerprints import SAMPLES, read_fingerprints, sample_blocks
from thincow.store.disk import Disk
from thincow.store.upstream import Upstream, scan

FIRST = first_address(DeviceId(3))


@pytest.mark.parametrize(
    "blocks", [0, 1, 2, SAMPLES - 1, SAMPLES, SAMPLES + 1, 1000, 1 << 28, 1 << 40]
)
def test_sample_blocks_are_distinct_ascending_and_inside(blocks):
    samples = sample_blocks(FIRST, blocks)
    assert samples == sorted(set(samples))
    assert len(samples) <= SAMPLES
    assert len(samples) >= min(blocks, SAMPLES // 2)
    if blocks:
        assert samples[0] == FIRST
        assert samples[-1] == FIRST + blocks - 1


def test_sample_blocks_are_stable_and_differ_by_device():
    other = first_address(DeviceId(4))
    assert sample_blocks(FIRST, 10**6) == sample_blocks(FIRST, 10**6)
    mine = {address - FIRST for address in sample_blocks(FIRST, 10**6)}
    theirs = {address - other for address in sample_blocks(other, 10**6)}
    assert mine != theirs


@pytest.mark.parametrize("block_size", [512, 4096, 65536, 1 << 20])
def test_sample_blocks_hold_the_superblocks(block_size):
    indexes = {address - FIRST for address in sample_blocks(FIRST, (1 << 40) // block_size)}
    for offset in (0, 1024, 4096, 64 << 10, 64 << 20):
        assert offset // block_size in indexes


def test_sample_blocks_are_spread():
    blocks = 1 << 28
    indexes = [address - FIRST for address in sample_blocks(FIRST, blocks)]
    for part in range(16):
        start, end = blocks * part // 16, blocks * (part + 1) // 16
        assert any(start <= index < end for index in indexes)


@pytest.fixture
def upstream(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"a" * 4096 + b"b" * 4096 + b"c" * 100)
    opened = Upstream(Disk(), scan(tmp_path)[0])
    yield opened
    opened.close()


def signed(content: bytes) -> int:
    value = xxhash.xxh3_64_intdigest(content)
    return value - (1 << 64) if value >= 1 << 63 else value


def test_read_fingerprints_extends_the_last_block_with_zeros(upstream):
    assert read_fingerprints(Disk(), upstream, range(FIRST, FIRST + 5), 4096) == {
        FIRST: signed(b"a" * 4096),
        FIRST + 1: signed(b"b" * 4096),
        FIRST + 2: signed(b"c" * 100 + bytes(3996)),
    }


def test_read_fingerprints_leaves_out_what_cannot_be_read(upstream):
    disk = Mock(wraps=Disk())
    disk.read.side_effect = [b"a" * 4096, OSError(errno.EIO, "bad"), b"short"]
    found = read_fingerprints(disk, upstream, range(FIRST, FIRST + 3), 4096)
    assert found == {FIRST: signed(b"a" * 4096)}
