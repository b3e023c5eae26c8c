"""A disk, and a SQLite VFS, of which any one call can be made to fail.

What can fail is found by looking at the classes themselves, so nothing can be forgotten: every
public method of `Disk`, and every method of apsw's VFS except those listed here with a reason.
"""

import errno
import inspect
import itertools
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

from thincow.store.disk import Disk

Site = tuple[str, str]
"""A method, and the kind of file that it is called for."""

EXEMPT = {
    "xClose": "SQLite ignores what close(2) answers",
    "xLock": "locks are no disk access",
    "xUnlock": "locks are no disk access",
    "xCheckReservedLock": "locks are no disk access",
    "xSectorSize": "a constant",
    "xDeviceCharacteristics": "a constant",
    "xFileControl": "hints, and questions about SQLite's own state",
    "xCurrentTime": "no disk access",
    "xCurrentTimeInt64": "no disk access",
    "xDlClose": "nothing is loaded",
    "xDlError": "nothing is loaded",
    "xDlOpen": "nothing is loaded",
    "xDlSym": "nothing is loaded",
    "xGetLastError": "says what failed",
    "xGetSystemCall": "for tests of SQLite",
    "xNextSystemCall": "for tests of SQLite",
    "xSetSystemCall": "for tests of SQLite",
    "xRandomness": "no disk access",
    "xSleep": "no disk access",
}

NOT_SERVED = {
    "clone": "for backups, which are made beside a mount and have tests of their own",
    "medium": "for block devices, which have tests of their own; it raises nothing",
}
"""Methods of `Disk` that serving files does not call."""

_RESULTS = {
    "xAccess": apsw.SQLITE_IOERR_ACCESS,
    "xDelete": apsw.SQLITE_IOERR_DELETE,
    "xFileSize": apsw.SQLITE_IOERR_FSTAT,
    "xFullPathname": apsw.SQLITE_CANTOPEN_FULLPATH,
    "xOpen": apsw.SQLITE_CANTOPEN,
    "xRead": apsw.SQLITE_IOERR_READ,
    "xSync": apsw.SQLITE_IOERR_FSYNC,
    "xTruncate": apsw.SQLITE_IOERR_TRUNCATE,
    "xWrite": apsw.SQLITE_IOERR_WRITE,
}
"""What SQLite's own VFS answers when the system call fails; a full disk differs in writing."""

_numbers = itertools.count()


@dataclass
class Fault:
    """Lets one call fail: the `number`th (from 1) at a site. Counts all calls."""

    site: Site | None = None
    number: int = 0
    code: int = errno.EIO
    calls: Counter[Site] = field(default_factory=Counter)
    fired: bool = False

    def hit(self, method: str, target: str) -> bool:
        """Count a call; tell whether it is the one to fail."""
        site = (method, target)
        self.calls[site] += 1
        if site == self.site and self.calls[site] == self.number:
            self.fired = True
            return True
        return False


def seam_methods() -> list[str]:
    """Return the names of the public methods of `Disk` that are to be made to fail."""
    methods = inspect.getmembers(Disk, inspect.isfunction)
    return [name for name, _ in methods if name[0] != "_" and name not in NOT_SERVED]


def vfs_methods(owner: type) -> list[str]:
    """Return the names of the methods of an apsw class that can be made to fail."""
    return [name for name in dir(owner) if name.startswith("x") and name not in EXEMPT]


class FailingDisk(Disk):
    """Any method may fail; each other read finds nothing in the page cache."""

    def __init__(self, root: Path, fault: Fault) -> None:
        self._root = root
        self._fault = fault
        self._targets: dict[int, str] = {}
        self._reads = 0
        self.vfs = FailingVFS(fault)
        self.sqlite_vfs = self.vfs.name

    def target_of(self, first: int | Path) -> str:
        """Return the kind of file that a call is about, from its first argument."""
        if isinstance(first, int):
            return self._targets[first]
        if first.parent.name == "upstream":
            return "upstream"
        return "directory" if first.is_dir() else first.name

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> bool:
        self._reads += 1
        return self._reads % 2 == 0 and os.preadv(fd, (buffer,), offset) == len(buffer)

    def note_opened(self, fd: int, path: Path) -> None:
        self._targets[fd] = self.target_of(path)


def _failing(name: str) -> Callable[..., Any]:
    right = getattr(FailingDisk, name)
    first = list(inspect.signature(right).parameters)[1]
    assert first in ("fd", "path", "source"), f"{name}({first}): what is it called for?"

    def method(self: FailingDisk, *args: Any) -> Any:
        fails = self._fault.hit(name, self.target_of(args[0]))
        if name == "close":
            right(self, *args)  # the descriptor is gone even when close(2) fails
        if fails:
            raise OSError(self._fault.code, os.strerror(self._fault.code))
        result = None if name == "close" else right(self, *args)
        if name == "open":
            self.note_opened(result, args[0])
        return result

    return method


for _name in seam_methods():
    setattr(FailingDisk, _name, _failing(_name))


class FailingVFS(apsw.VFS):
    """The system's VFS; any method may fail."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.name = f"failing{next(_numbers)}"
        super().__init__(self.name, "")


class FailingFile(apsw.VFSFile):
    """A file of SQLite's; `fault` and `target` are set when it is opened."""

    fault: Fault
    target: str


def _fail(fault: Fault, method: str, target: str) -> None:
    if not fault.hit(method, target):
        return
    if method == "xWrite" and fault.code == errno.ENOSPC:
        raise apsw.FullError("planted: no space left")
    result = _RESULTS[method]
    planted = (apsw.CantOpenError if method in ("xOpen", "xFullPathname") else apsw.IOError)(
        f"planted failure of {method}"
    )
    planted.extendedresult = result
    raise planted


def _failing_call(name: str) -> Callable[..., Any]:
    right = getattr(apsw.VFS, name)

    def method(self: FailingVFS, path: Any, *args: Any) -> Any:
        filename = path.filename() if isinstance(path, apsw.URIFilename) else path
        target = Path(filename).name if filename else "temporary"
        _fail(self.fault, name, target)
        if name != "xOpen":
            return right(self, path, *args)
        file = FailingFile("", path, *args)
        file.fault, file.target = self.fault, target
        return file

    return method


def _failing_file_call(name: str) -> Callable[..., Any]:
    right = getattr(apsw.VFSFile, name)

    def method(self: FailingFile, *args: Any) -> Any:
        _fail(self.fault, name, self.target)
        return right(self, *args)

    return method


for _name in vfs_methods(apsw.VFS):
    setattr(FailingVFS, _name, _failing_call(_name))
for _name in vfs_methods(apsw.VFSFile):
    setattr(FailingFile, _name, _failing_file_call(_name))
