"""The file `cowdata`: contents of COW blocks, without a header. Knows nothing of counts."""

import errno
import os
from pathlib import Path
from typing import Final

from thincow.errors import NoSpaceError, StoreFailedError
from thincow.store.disk import Disk
from thincow.store.writeback import BackgroundWriteback

COW_NAME = "cowdata"
_MIN_CLAIM_BYTES: Final = 1 << 20
_MAX_CLAIM_BYTES: Final = 64 << 20
_WRITEBACK_BYTES: Final = 16 << 20
_OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNSUPPORTED: Final = {errno.EOPNOTSUPP, errno.ENOSYS}


class CowFile:
    """`cowdata`, opened. All offsets and lengths in bytes.

    Space is claimed from the filesystem in steps before contents are written into it, so that a
    write that was acknowledged cannot fail for lack of space later.
    """

    def __init__(self, disk: Disk, data_dir: Path, *, read_only: bool) -> None:
        """Open the file, which must exist."""
        self._disk = disk
        self.fd = disk.open(data_dir / COW_NAME, os.O_RDONLY if read_only else os.O_RDWR)
        self.size_bytes = disk.size(self.fd)
        """As it was when the file was opened."""
        self._claimed_end = self.size_bytes
        self._can_claim = True
        self._can_punch = True
        self._writeback = BackgroundWriteback(disk, self.fd, _WRITEBACK_BYTES)
        self.unsynced = False
        """Contents were written that no sync covers yet; reset by who takes care of the sync."""

    def claim(self, end: int) -> None:
        """Make sure that the file has space up to `end`.

        Raises:
            NoSpaceError: when the filesystem has no room.
        """
        if end <= self._claimed_end:
            return
        step = min(max(self._claimed_end // 8, _MIN_CLAIM_BYTES), _MAX_CLAIM_BYTES)
        target = max(end, self._claimed_end + step)
        try:
            self._claim_to(target)
        except NoSpaceError:
            if target == end:
                raise
            self._claim_to(end)

    def _claim_to(self, end: int) -> None:
        if self._can_claim:
            try:
                self._disk.claim(self.fd, self._claimed_end, end - self._claimed_end)
            except OSError as error:
                if error.errno in _OUT_OF_SPACE:
                    raise NoSpaceError("no space left for cowdata") from error
                if error.errno not in _UNSUPPORTED:
                    raise
                self._can_claim = False
        self._claimed_end = end

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write contents.

        Raises:
            NoSpaceError: when the filesystem has no room.
            OSError: when the write failed otherwise.
        """
        self.unsynced = True
        try:
            self._disk.write(self.fd, data, offset)
        except OSError as error:
            if error.errno in _OUT_OF_SPACE:
                raise NoSpaceError("no space left for cowdata") from error
            raise
        self._writeback.note(offset, len(data))

    def sync(self) -> None:
        """Make all contents written so far durable.

        Raises:
            StoreFailedError: when the sync failed: what it covered may be lost, and no later
                success would prove otherwise.
        """
        try:
            self._disk.sync(self.fd)
        except OSError as error:
            raise StoreFailedError(f"cowdata could not be synced: {error.strerror}") from error

    def punch(self, offset: int, length: int) -> None:
        """Give the space of a range back where the filesystem can."""
        if not self._can_punch:
            return
        try:
            self._disk.punch(self.fd, offset, length)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            self._can_punch = False

    def truncate(self, end: int) -> None:
        """Cut the file to `end` bytes."""
        if self._disk.size(self.fd) != end:
            self._disk.truncate(self.fd, end)
        self._claimed_end = end

    def close(self) -> None:
        """Close the file without syncing it."""
        self._writeback.close()
        self._disk.close(self.fd)
