"""A disk seam that records what is done to files, and fails what a test wants to fail.

Covers both the system calls on files and, through a VFS of its own, those of SQLite.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import apsw

from thincow.store.disk import Disk

_numbers = count()


@dataclass(frozen=True)
class Call:
    """One call: what was done to which file, where, and how many bytes."""

    kind: str
    name: str
    offset: int = 0
    length: int = 0


@dataclass
class _Fault:
    kind: str
    name: str
    code: int
    left: int


class ScriptedDisk(Disk):
    """Records calls in `calls`; kinds are the names of `Disk`'s methods.

    What SQLite does to `metadata.db` and `metadata.db-wal` counts as `write`, `sync`, `truncate`
    and `read`, when `with_sqlite`. `is_cold`: nothing is in the page cache; a function may decide.
    """

    def __init__(self, *, with_sqlite: bool = False, is_cold: bool | Callable[[], bool] = False):
        self.calls: list[Call] = []
        self.is_cold = is_cold
        self._names: dict[int, str] = {}
        self._faults: list[_Fault] = []
        if with_sqlite:
            self.sqlite_vfs = f"scripted{next(_numbers)}"
            self._vfs = _Vfs(self.sqlite_vfs, self)

    def fail(self, kind: str, name: str, code: int = errno.EIO, times: int = 1 << 30) -> None:
        """Let the next calls of a kind on a file fail."""
        self._faults.append(_Fault(kind, name, code, times))

    def mend(self) -> None:
        """Let everything succeed from now on."""
        self._faults.clear()

    @contextmanager
    def failing(self, kind: str, name: str, code: int = errno.EIO) -> Iterator[None]:
        self.fail(kind, name, code)
        try:
            yield
        finally:
            self.mend()

    def of(self, *kinds: str, name: str | None = None) -> list[Call]:
        """Return the recorded calls of these kinds, on one file or all."""
        return [call for call in self.calls if call.kind in kinds and name in (None, call.name)]

    def note(self, kind: str, name: str, offset: int = 0, length: int = 0) -> None:
        self.calls.append(Call(kind, name, offset, length))
        for fault in self._faults:
            if (fault.kind, fault.name) == (kind, name) and fault.left > 0:
                fault.left -= 1
                raise OSError(fault.code, os.strerror(fault.code))

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        self.note("open", path.name)
        fd = super().open(path, flags, mode)
        self._names[fd] = path.name
        return fd

    def close(self, fd: int) -> None:
        self.note("close", self._names.pop(fd))
        super().close(fd)

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self.note("read", self._names[fd], offset, length)
        return super().read(fd, length, offset)

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> bool:
        if self.is_cold() if callable(self.is_cold) else self.is_cold:
            return False
        self.note("read", self._names[fd], offset, len(buffer))
        return super().read_cached(fd, buffer, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        self.note("write", self._names[fd], offset, len(data))
        super().write(fd, data, offset)

    def sync(self, fd: int) -> None:
        self.note("sync", self._names[fd])
        super().sync(fd)

    def sync_whole(self, fd: int) -> None:
        self.note("sync_whole", self._names[fd])
        super().sync_whole(fd)

    def sync_directory(self, path: Path) -> None:
        self.note("sync_directory", path.name)
        super().sync_directory(path)

    def truncate(self, fd: int, size: int) -> None:
        self.note("truncate", self._names[fd], size)
        super().truncate(fd, size)

    def claim(self, fd: int, offset: int, length: int) -> None:
        self.note("claim", self._names[fd], offset, length)
        super().claim(fd, offset, length)

    def punch(self, fd: int, offset: int, length: int) -> None:
        self.note("punch", self._names[fd], offset, length)
        super().punch(fd, offset, length)

    def clone(self, source_fd: int, target_fd: int, offset: int, length: int) -> None:
        self.note("clone", self._names[target_fd], offset, length)
        super().clone(source_fd, target_fd, offset, length)

    def rename(self, source: Path, target: Path) -> None:
        self.note("rename", target.name)
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.note("unlink", path.name)
        super().unlink(path)


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: ScriptedDisk) -> None:
        super().__init__(name, "")
        self._disk = disk

    def xOpen(  # noqa: N802 - SQLite's names
        self, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> apsw.VFSFile:
        return _File(self._disk, name, flags)


class _File(apsw.VFSFile):
    def __init__(
        self, disk: ScriptedDisk, name: apsw.URIFilename | str | None, flags: list[int]
    ) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._name = Path(path).name if path else ""
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._note("read", apsw.IOError, apsw.SQLITE_IOERR_READ, offset, amount)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._note("write", apsw.IOError, apsw.SQLITE_IOERR_WRITE, offset, len(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._note("sync", apsw.IOError, apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._note("truncate", apsw.IOError, apsw.SQLITE_IOERR_TRUNCATE, size)
        super().xTruncate(size)

    def _note(
        self, kind: str, error: type[apsw.Error], code: int, offset: int = 0, length: int = 0
    ) -> None:
        try:
            self._disk.note(kind, self._name, offset, length)
        except OSError as fault:
            if fault.errno == errno.ENOSPC:
                error, code = apsw.FullError, apsw.SQLITE_FULL
            raised = error(f"{kind} of {self._name} is to fail")
            raised.result = code & 0xFF
            raised.extendedresult = code
            raise raised from fault
