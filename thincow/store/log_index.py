"""`metadata.db-shm`, the index of the write-ahead log: keeps a full disk from killing the process.

SQLite maps the index and writes to it as to memory. Where such a write takes space that the
filesystem does not have (on a copy-on-write filesystem any write does), there is no error to
return: the kernel ends the process with SIGBUS. Three things against it:
- before SQLite opens the database, the index is made with the attribute "no copy on write", where
  there is such a thing: contents then change in place (on btrfs; Linux 6.18 does so for mapped
  pages, older ones may not);
- space for what the next commit may add is allocated ahead;
- before each commit the mapped pages are made writable, by a call that fails instead of killing.

Invariant: once SQLite has the index, nothing else opens or closes it. Its descriptor and its
addresses are SQLite's own, looked up in /proc.
"""

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from thincow.errors import CommitError
from thincow.store.disk import Disk

_FS_IOC_GETFLAGS: Final = 0x80006601 | struct.calcsize("l") << 16
_FS_IOC_SETFLAGS: Final = 0x40006602 | struct.calcsize("l") << 16
_FLAGS: Final = struct.Struct("i4x")
"""The requests are declared for a long, of which the kernel reads and writes an int."""

_FS_COMPR_FL: Final = 0x4
_FS_NOCOW_FL: Final = 0x800000
_MADV_POPULATE_WRITE: Final = 23

_REGION_BYTES: Final = 32 << 10
_UNMAPPED_BYTES: Final = 3
"""To this size SQLite cuts an index that it finds, before it uses it."""
_FRAMES_A_REGION: Final = 4096
_HEADER_FRAMES: Final = 34
"""The header of the index takes the place of so many frames of the first region."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def prepare(database: Path) -> None:
    """Make the index of a database that is about to be opened, if its attributes matter.

    One that is there already is left alone: somebody may be using it.
    """
    try:
        fd = os.open(database.parent, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    try:
        (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _FS_IOC_GETFLAGS, _FLAGS.pack(0)))
        wanted = flags & ~_FS_COMPR_FL | _FS_NOCOW_FL
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, _FLAGS.pack(wanted))
        # A directory descriptor makes this linkat(2), which follows the link in /proc.
        os.link(f"/proc/self/fd/{fd}", _path(database), src_dir_fd=fd)
    except OSError:
        pass  # no such attribute here, or the index exists
    finally:
        os.close(fd)


def discard_unused(database: Path) -> None:
    """Remove an index that nobody ever mapped, and with it an empty log. No database may be open.

    One is left over when SQLite did not come to use what was prepared, or had no space for more.
    """
    index = _path(database)
    if index.exists() and index.stat().st_size <= _UNMAPPED_BYTES:
        index.unlink()
        log = database.with_name(database.name + "-wal")
        if log.exists() and log.stat().st_size == 0:
            log.unlink()


class LogIndex:
    """The index of an open database."""

    def __init__(self, database: Path) -> None:
        """Note where it is; SQLite makes and maps it when it needs it."""
        self._path = _path(database.resolve())
        self._regions = 0
        self._mapped: list[tuple[int, int]] = []

    def secure(self, log_frames: int) -> None:
        """Make sure that a commit after a log of `log_frames` frames, or a merge, can write to it.

        Raises:
            CommitError: when there is no space for that.
        """
        regions = (log_frames + _HEADER_FRAMES) // _FRAMES_A_REGION + 1
        if regions != self._regions:
            self._claim(regions + 1)
            self._mapped = _mapped_ranges(self._path)
            self._regions = regions if self._mapped else 0
        for address, length in self._mapped:
            if _libc.madvise(address, length, _MADV_POPULATE_WRITE) and (
                ctypes.get_errno() == errno.EFAULT
            ):
                raise CommitError("metadata.db-shm: no space left to change it", errno.ENOSPC)

    def _claim(self, regions: int) -> None:
        fd = _descriptor_of(self._path)
        if fd is None:
            return
        try:
            Disk().claim(fd, 0, regions * _REGION_BYTES)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise CommitError("metadata.db-shm: no space left for it", errno.ENOSPC) from error


def _path(database: Path) -> Path:
    return database.with_name(database.name + "-shm")


def _descriptor_of(path: Path) -> int | None:
    """Return the number of a descriptor of this process by the path it was opened with."""
    for link in Path("/proc/self/fd").iterdir():
        try:
            if link.readlink() == path:
                return int(link.name)
        except FileNotFoundError:
            continue  # the descriptor that lists them
    return None


def _mapped_ranges(path: Path) -> list[tuple[int, int]]:
    """Return where a file is mapped into memory, as addresses and lengths in bytes."""
    ranges = []
    shown = b" " + os.fsencode(path).replace(b"\n", b"\\012")
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        if line.endswith(shown):
            begin, end = (int(address, 16) for address in line.split(b" ", 1)[0].split(b"-"))
            ranges.append((begin, end - begin))
    return ranges
