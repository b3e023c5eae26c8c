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


class SpaceReserve:
    """The reserve of one directory."""

    def __init__(self, disk: Disk, directory: Path, max_bytes: int) -> None:
        """Prepare a reserve in proportion to the filesystem; nothing is allocated yet."""
        self._disk = disk
        self._directory = directory
        self._path = directory / RESERVE_NAME
        total = disk.filesystem_bytes(directory)[0]
        share = total // _SHARE_OF_FILESYSTEM
        self.size_bytes = min(max_bytes, max(_SMALLEST_BYTES, share))
        self.is_held = False

    def is_low(self) -> bool:
        """Tell whether so little is free that commits should stay small."""
        return self._disk.filesystem_bytes(self._directory)[1] < _LOW_RESERVES * self.size_bytes

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
