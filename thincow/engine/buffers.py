"""Buffers for contents, which are read into them from the page cache."""

import mmap


def new_buffer(length: int) -> memoryview:
    """Return a buffer of `length` bytes, zero at first: it costs memory where it is used only.

    It begins with a page. What `malloc` returns for much memory begins 16 bytes after a page, and
    to copy pages of the page cache there takes five times as long on some processors (AMD Zen: a
    string move to a place just behind the source, modulo 4096).
    """
    return memoryview(mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
