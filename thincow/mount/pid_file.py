"""The pid file: locked while the mount runs, so that a stale one is told from a live one.

The lock, not the number in the file, says whether somebody runs.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thincow.errors import ConfigurationError


class PidFile:
    """A pid file that this process has locked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd, self._is_foreign = _open_locked(path)

    def write(self) -> None:
        """Write this process's pid and a newline in place of what the file held."""
        os.ftruncate(self._fd, 0)
        os.write(self._fd, b"%d\n" % os.getpid())
        self._is_foreign = False

    def close(self) -> None:
        """Remove the file and give the lock up; a stale file that was not written to stays."""
        if not self._is_foreign:
            self._path.unlink(missing_ok=True)
        os.close(self._fd)


@contextmanager
def hold_pid_file(path: Path | None) -> Iterator[PidFile | None]:
    """Lock a pid file, if there is to be one, until the block ends.

    Raises:
        ConfigurationError: when another instance holds it, or it cannot be created.
    """
    if path is None:
        yield None
        return
    pid_file = PidFile(path)
    try:
        yield pid_file
    finally:
        pid_file.close()


def _open_locked(path: Path) -> tuple[int, bool]:
    while True:
        existed = path.exists()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigurationError(f"pid file {path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise ConfigurationError(
                f"pid file {path} is held by another thincow (process {holder or 'unknown'})"
            ) from None
        if _is_still(path, fd):
            return fd, existed
        os.close(fd)  # an instance that was just ending removed the file that was opened


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
