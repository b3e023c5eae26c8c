"""Has the disk work on what was written before somebody waits for it."""

from contextlib import suppress
from typing import Final

from thincow.store.disk import Disk

_STEP_BYTES: Final = 16 << 20


class EarlyWriteback:
    """Lets the kernel begin to write a file to its disk whenever so much more was written."""

    def __init__(self, disk: Disk, fd: int) -> None:
        """Begin with nothing written."""
        self._disk = disk
        self._fd = fd
        self._bytes = 0
        self._begin = 0
        self._end = 0

    def note(self, offset: int, length: int) -> None:
        """Note that `length` bytes from byte `offset` on were written."""
        end = offset + length
        if self._bytes == 0:
            self._begin, self._end = offset, end
        else:
            self._begin, self._end = min(self._begin, offset), max(self._end, end)
        self._bytes += length
        if self._bytes >= _STEP_BYTES:
            self._bytes = 0
            with suppress(OSError):  # it only saves time; a sync tells of what is wrong
                self._disk.start_writeback(self._fd, self._begin, self._end - self._begin)
