"""Locks on the directories of a store.

Owns one flock for each directory of a store, taken on the directory's own descriptor: that
writes nothing, leaves nothing behind and works on a read-only filesystem. The lock belongs to the
open descriptor: a child made by fork keeps it alive, and the pid that others see is that of the
process which took it. So take it in the process that will serve.
"""

import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thincow.errors import ConfigurationError, StoreInUseError

_PROC_LOCKS = Path("/proc/locks")


class DirectoryLock:
    """A held lock; made by `acquire`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, path: Path, exclusive: bool) -> "DirectoryLock":
        """Lock a directory at once or not at all.

        Args:
            path: an existing directory.
            exclusive: False shares the lock with other readers.

        Raises:
            StoreInUseError: when somebody else holds it, naming the directory and the holder.
            ConfigurationError: when the directory cannot be opened or locked.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(f"cannot open directory {path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _describe_holders(os.fstat(fd))
            os.close(fd)
            raise StoreInUseError(f"{path} is in use by {holder}") from error
        except OSError as error:
            os.close(fd)
            raise ConfigurationError(f"cannot lock directory {path}: {error.strerror}") from error
        return cls(path, fd)

    def release(self) -> None:
        """Let others have the directory; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            # Closing is not enough while a child between fork and exec holds the descriptor too.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


def lock_directories(directories: Iterable[Path], exclusive: bool) -> list[DirectoryLock]:
    """Lock several directories, the same one under two names only once; all or none.

    Raises:
        StoreInUseError: when somebody else holds one of them.
        ConfigurationError: when one cannot be opened or locked.
    """
    locks: list[DirectoryLock] = []
    seen: set[tuple[int, int]] = set()
    try:
        for directory in directories:
            identity = _identity(directory)
            if identity not in seen:
                seen.add(identity)
                locks.append(DirectoryLock.acquire(directory, exclusive))
    except BaseException:
        for lock in locks:
            lock.release()
        raise
    return locks


def _identity(directory: Path) -> tuple[int, int]:
    try:
        status = directory.stat()
    except OSError as error:
        raise ConfigurationError(f"cannot open directory {directory}: {error.strerror}") from error
    return status.st_dev, status.st_ino


@dataclass(frozen=True, slots=True)
class _HeldLock:
    """A line of /proc/locks."""

    pid: int
    device: int
    inode: int


def find_holders(status: os.stat_result) -> list[int]:
    """Return the pids of the processes that hold a flock on the file with this status.

    Some filesystems (btrfs, overlay) have another device number in /proc/locks than in `stat`:
    then the inode decides, if only one file with that inode number is locked.
    """
    with_inode = [lock for lock in _held_locks() if lock.inode == status.st_ino]
    holders = [lock for lock in with_inode if lock.device == status.st_dev]
    if not holders and len({lock.device for lock in with_inode}) == 1:
        holders = with_inode
    # The pid is 0 or -1 for a process that cannot be seen from this pid namespace.
    return sorted({lock.pid for lock in holders if lock.pid > 0})


def _describe_holders(status: os.stat_result) -> str:
    pids = find_holders(status)
    if not pids:
        return "another process"
    word = "process" if len(pids) == 1 else "processes"
    return f"{word} {', '.join(map(str, pids))}"


def _held_locks() -> list[_HeldLock]:
    try:
        lines = _PROC_LOCKS.read_text("ascii").splitlines()
    except OSError:
        return []
    locks = []
    for line in lines:
        # "1: FLOCK  ADVISORY  WRITE 4751 fe:00:2148109 0 EOF"; one that waits has "->" second.
        fields = line.split()
        if fields[1] == "FLOCK":
            major, minor, inode = fields[5].split(":")
            device = os.makedev(int(major, 16), int(minor, 16))
            locks.append(_HeldLock(int(fields[4]), device, int(inode)))
    return locks
