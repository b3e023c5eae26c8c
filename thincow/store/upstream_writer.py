"""An upstream device open for writing: for flush alone, and only while it runs."""

import errno
import os
import stat
from contextlib import suppress
from typing import Final

from thincow.errors import FlushError
from thincow.store.disk import Disk
from thincow.store.host_view import HostView
from thincow.store.upstream import Upstream, UpstreamFile
from thincow.store.writeback import EarlyWriteback

_REFUSALS: Final = {
    errno.EBUSY: "it is mounted or in use",
    errno.EROFS: "it is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}

_WRITEBACK_BYTES: Final = 16 << 20


class UpstreamWriter:
    """Writes to one device. Offsets and lengths in bytes."""

    def __init__(self, disk: Disk, upstream: Upstream) -> None:
        """Open the device, exclusively where the kernel can.

        Raises:
            FlushError: when somebody else uses it, or it cannot be written.
        """
        self._disk = disk
        self._file = upstream.file
        self.size_bytes = upstream.size_bytes
        _refuse_busy_file(self._file)
        flags = os.O_RDWR | (os.O_EXCL if self._file.type == "block" else 0)
        try:
            self._fd = disk.open(self._file.resolved_path, flags)
        except OSError as error:
            reason = _REFUSALS.get(error.errno or 0, error.strerror)
            raise FlushError(
                f"upstream device {self._file.name} cannot be written: {reason}",
                error.errno or errno.EIO,
            ) from error
        self._writeback = EarlyWriteback(disk, self._fd, _WRITEBACK_BYTES)
        if not self._leads_to(upstream):
            self.close()
            raise FlushError(
                f"upstream device {self._file.name} was replaced since it was opened: unmount, and "
                "see what replaced it",
                errno.EIO,
            )

    def write(self, data: memoryview, offset: int) -> None:
        """Write; what lies past the end of the device is left out. Best in ascending order.

        The disk begins to work meanwhile, so that `sync` need not wait for all of it.

        Raises:
            OSError: as the system call does.
        """
        data = data[: self.size_bytes - offset]
        self._disk.write(self._fd, data, offset)
        self._writeback.note(offset, len(data))

    def write_synced(self, data: memoryview, offset: int) -> None:
        """Write as `write` does, and wait until the device has it."""
        self.write(data, offset)
        self.sync()

    def sync(self) -> None:
        """Make everything written durable, and the modification time, which opens compare."""
        self._disk.sync_whole(self._fd)

    def resize(self, size_bytes: int) -> None:
        """Give a regular file another size, durably.

        Raises:
            OSError: as the system calls do; `size_bytes` says what the size is then.
        """
        try:
            self._disk.truncate(self._fd, size_bytes)
            self.sync()
        finally:
            self.size_bytes = self._disk.size(self._fd)

    def mtime_ns(self) -> int | None:
        """Return the modification time of a regular file."""
        return os.fstat(self._fd).st_mtime_ns if self._file.type == "file" else None

    def close(self) -> None:
        """Close the device; what that answers changes nothing, since what counts was synced."""
        with suppress(OSError):
            self._disk.close(self._fd)

    def _leads_to(self, upstream: Upstream) -> bool:
        """Tell whether this is the file or the disk that is read, not another one in its place."""
        opened, read = os.fstat(self._fd), os.fstat(upstream.fd)
        if self._file.type == "file":
            return (opened.st_dev, opened.st_ino) == (read.st_dev, read.st_ino)
        is_same_number = stat.S_ISBLK(opened.st_mode) and opened.st_rdev == read.st_rdev
        return is_same_number and self._disk.medium(self._fd) == upstream.medium


def _refuse_busy_file(file: UpstreamFile) -> None:
    if file.type != "file":
        return
    for loop in HostView().loops_over(file.st_dev, file.inode):
        raise FlushError(
            f"upstream device {file.name} cannot be written: {loop} is attached to it",
            errno.EBUSY,
        )
