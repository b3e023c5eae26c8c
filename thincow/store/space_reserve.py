"""`reserve`: space kept back so that the last commit and the unmount work on a full disk.

The file is allocated while a store is open for writing, given up when a commit finds the disk full,
and gone after the unmount. It lies beside `metadata.db`, which is what commits make grow.
"""

import errno
import os
from pathlib import Path
from typing import Final

from thincow.store.disk import Disk

RESERVE_NAME: Final = "reserve"
_SMALLEST_BYTES: Final = 256 << 10
_SHARE_OF_FILESYSTEM: Final = 32
_LOW_RESERVES: Final = 4
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS}
_OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT}


def low_water_bytes(total: int, max_bytes: int) -> int:
    """Return how much space, of `total` bytes, is so little that somebody should be told.

    `max_bytes`: the most that a reserve may take.
    """
    return _LOW_RESERVES * _size(total, max_bytes)


def _size(total: int, max_bytes: int) -> int:
    return min(max_bytes, max(_SMALLEST_BYTES, total // _SHARE_OF_FILESYSTEM))


class SpaceReserve:
    """The reserve of one directory."""

    def __init__(self, disk: Disk, directory: Path, max_bytes: int) -> None:
        """Prepare a reserve in proportion to the filesystem; nothing is allocated yet."""
        self._disk = disk
        self._path = directory / RESERVE_NAME
        total = disk.filesystem_bytes(directory)[0]
        self.size_bytes = _size(total, max_bytes)
        self.is_held = False

    def hold(self) -> bool:
        """Allocate the space; tell whether it is held now.

        Raises:
            OSError: for any reason but a full disk.
        """
        if self.is_held:
            return True
        try:
            fd = self._disk.open(self._path, os.O_RDWR | os.O_CREAT)
            try:
                self._allocate(fd)
            finally:
                self._disk.close(fd)
        except OSError as error:
            if error.errno not in _OUT_OF_SPACE:
                raise
            self.release()
            return False
        self.is_held = True
        return True

    def release(self) -> None:
        """Give the space up.

        Raises:
            OSError: when the file cannot be removed.
        """
        self.is_held = False
        if self._path.exists():
            self._disk.unlink(self._path)

    def _allocate(self, fd: int) -> None:
        try:
            self._disk.claim(fd, 0, self.size_bytes)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._disk.write(fd, bytes(self.size_bytes), 0)
