"""The one seam through which the program touches the files of a store and its upstreams.

SQLite's own files go through SQLite's VFS instead. Tests replace a `Disk` to record operations or
to make any one of them fail; nothing else in `thincow` calls these functions of `os`.
Every method raises `OSError` as the system call does.
"""

import ctypes
import errno
import fcntl
import os
import struct
import sys
import time
from pathlib import Path

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_FICLONERANGE = 0x4020940D
_SYNC_FILE_RANGE_WRITE = 2
_BLKGETDISKSEQ = 0x80081280  # Linux 5.15
_NOT_AVAILABLE_NOW = {errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}

_SYS_CACHESTAT = 451  # the same on all architectures; Linux 6.5

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint,
)


class Disk:
    """System calls on files, by file descriptor; offsets and lengths in bytes."""

    sqlite_vfs: str | None = None
    """Name of the SQLite VFS through which the database is opened; None is the system's."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """Open a file, close-on-exec, and return its descriptor."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Return the size of a regular file or block device."""
        return os.lseek(fd, 0, os.SEEK_END)

    def medium(self, fd: int) -> int | None:
        """Return the number that the kernel gave to what is in a block device.

        Another disk under the same device number has another one. None where the kernel has none.
        """
        try:
            found = fcntl.ioctl(fd, _BLKGETDISKSEQ, bytes(8))
        except OSError:
            return None
        return int.from_bytes(found, sys.byteorder)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """Read up to `length` bytes; fewer only at the end of the file."""
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        done = len(data)
        while done < length:
            data = os.pread(fd, length - done, offset + done)
            if not data:
                break
            parts.append(data)
            done += len(data)
        return b"".join(parts)

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> bool:
        """Fill `buffer` if all of it is in the page cache, else return False at once.

        A read across the end of the file returns False too: only `read` can tell the two apart.
        Real errors (EIO) raise.
        """
        try:
            return os.preadv(fd, (buffer,), offset, os.RWF_NOWAIT) == len(buffer)
        except OSError as error:
            if error.errno in _NOT_AVAILABLE_NOW:
                return False
            raise

    def cached_pages(self, fd: int, offset: int, length: int) -> int:
        """Return how many pages of a range are in the page cache, reading none of them.

        0 where the kernel does not tell. (`read_cached` may begin to read what is missing.)
        """
        span = (ctypes.c_uint64 * 2)(offset, length)
        counts = (ctypes.c_uint64 * 5)()
        done = _libc.syscall(_SYS_CACHESTAT, fd, span, counts, 0)
        return int(counts[0]) if done == 0 else 0

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data`; a short write is continued."""
        done = os.pwrite(fd, data, offset)
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """Let the kernel begin to write a range to the disk, so that `sync` has less to wait for.

        Nothing is durable before `sync`, and only that tells of errors.
        """
        if _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def sync(self, fd: int) -> None:
        """Make the contents (and what is needed to find them) durable: fdatasync."""
        os.fdatasync(fd)

    def sync_whole(self, fd: int) -> None:
        """Make the contents and the modification time durable: fsync."""
        os.fsync(fd)

    def sync_directory(self, path: Path) -> None:
        """Make the entries of a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def forget_cached(self, fd: int) -> None:
        """Drop the clean cached pages of a file."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def truncate(self, fd: int, size: int) -> None:
        """Set the size of a file."""
        os.ftruncate(fd, size)

    def claim(self, fd: int, offset: int, length: int) -> None:
        """Allocate space, growing the file; contents become zero where nothing was.

        Raises:
            OSError: EOPNOTSUPP where the filesystem cannot allocate ahead.
        """
        self._fallocate(fd, 0, offset, length)

    def punch(self, fd: int, offset: int, length: int) -> None:
        """Give the space of a range back; it reads as zeros."""
        self._fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length)

    def clone(self, source_fd: int, target_fd: int, offset: int, length: int) -> None:
        """Let a range of one file share the space of the same range of another.

        Raises:
            OSError: EOPNOTSUPP, EXDEV and the like where that cannot be done.
        """
        request = struct.pack("=qQQQ", source_fd, offset, length, offset)
        fcntl.ioctl(target_fd, _FICLONERANGE, request)

    def filesystem_bytes(self, path: Path) -> tuple[int, int]:
        """Return the size of the filesystem that holds a path, and what of it we may still use."""
        status = os.statvfs(path)
        return status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, replacing `target`."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def _fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        while _libc.fallocate(fd, mode, offset, length) != 0:
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))


class ThrottledDisk(Disk):
    """Reads no more than so many bytes a second, for work that must leave others their share."""

    def __init__(self, bytes_a_second: int) -> None:
        self._rate = bytes_a_second
        self._free_at_s = 0.0

    def read(self, fd: int, length: int, offset: int) -> bytes:
        """Read as any disk does, after a pause that makes up for the reads before."""
        now_s = time.monotonic()
        if self._free_at_s > now_s:
            time.sleep(self._free_at_s - now_s)
        self._free_at_s = max(self._free_at_s, now_s) + length / self._rate
        return super().read(fd, length, offset)
