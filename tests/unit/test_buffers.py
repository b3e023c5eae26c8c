"""Buffers for contents."""

import ctypes
import mmap

import pytest

from thincow.engine.buffers import new_buffer


@pytest.mark.parametrize("length", [512, 1 << 20, (1 << 20) + 512])
def test_buffer_begins_with_a_page(length):
    buffer = new_buffer(length)
    assert len(buffer) == length
    assert ctypes.addressof(ctypes.c_char.from_buffer(buffer)) % mmap.PAGESIZE == 0
