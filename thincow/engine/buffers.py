"""Buffers for contents, which are read into them from the page cache; hashes of their blocks."""

import mmap
from functools import lru_cache
from typing import Final

from xxhash import xxh3_64_intdigest

REQUEST_BYTES: Final = 1 << 20
"""The largest request of the kernel."""


def new_buffer(length: int) -> memoryview:
    """Return a buffer of `length` bytes, zero at first: it costs memory where it is used only.

    It begins with a page. What `malloc` returns for much memory begins 16 bytes after a page, and
    to copy pages of the page cache there takes five times as long on some processors (AMD Zen: a
    string move to a place just behind the source, modulo 4096).
    """
    return memoryview(mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class BlockBuffer:
    """Room for whole blocks, and a view of each: to make one takes longer than to hash it."""

    def __init__(self, block_size: int, blocks: int) -> None:
        """Make room for `blocks` blocks of `block_size` bytes."""
        self.data = new_buffer(blocks * block_size)
        self._blocks = [
            self.data[at : at + block_size] for at in range(0, len(self.data), block_size)
        ]

    def hashes(self, first: int, count: int) -> list[int]:
        """Return the unsigned xxh3_64 of `count` blocks from block `first` on."""
        return list(map(xxh3_64_intdigest, self._blocks[first : first + count]))


def hash_blocks(data: bytes | memoryview, block_size: int) -> list[int]:
    """Return the unsigned xxh3_64 of each block of whole blocks that lie anywhere."""
    if len(data) == block_size:
        return [xxh3_64_intdigest(data)]
    view = memoryview(data)
    parts = _parts(max(len(data), REQUEST_BYTES), block_size)
    return [xxh3_64_intdigest(view[part]) for part in parts[: len(data) // block_size]]


@lru_cache(maxsize=4)
def _parts(length: int, block_size: int) -> tuple[slice, ...]:
    """Return the place of each block in so many bytes; to make it takes longer than to hash."""
    return tuple(slice(at, at + block_size) for at in range(0, length, block_size))
