"""A disk on which `cowdata` can be a hole, so that a store of any size fits anywhere."""

import errno
import os
from pathlib import Path

from thincow.store.cow_file import COW_NAME
from thincow.store.disk import Disk

_STEP_BYTES = 1 << 30


class HollowDisk(Disk):
    """Forgets what is written to `cowdata` while `is_hollow`; everything else is real.

    Contents that are only ever new are never read again, so the engine does not notice.
    """

    is_hollow = True

    def __init__(self) -> None:
        self._cow_fd = -1
        self._end = 0

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file and see whether it is `cowdata`."""
        fd = super().open(path, flags, mode)
        if path.name == COW_NAME:
            self._cow_fd = fd
            self._end = self.size(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close a descriptor, whose number may then stand for another file."""
        if fd == self._cow_fd:
            self._cow_fd = -1
        super().close(fd)

    def claim(self, fd: int, offset: int, length: int) -> None:
        """Claim space, but not for what will be a hole."""
        if fd == self._cow_fd:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        super().claim(fd, offset, length)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write, or only let the file grow."""
        if fd == self._cow_fd and self.is_hollow:
            if offset + len(data) > self._end:
                self._end = offset + len(data) + _STEP_BYTES
                self.truncate(fd, self._end)
            return
        super().write(fd, data, offset)
