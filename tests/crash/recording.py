"""Records everything that reaches the simulated disk: a `Disk` and a SQLite VFS over real files.

Both write down their operations in one `Recorder`. Programs run on the real files meanwhile, so
they see what a page cache shows: everything, synced or not. SQLite's shared memory (-shm) is not
recorded: it is made anew after a crash.
"""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import apsw

from tests.crash.operations import (
    Claim,
    Contents,
    DiskImage,
    Link,
    Operation,
    Punch,
    Rename,
    Resize,
    Sync,
    SyncDirectory,
    Unlink,
    Write,
)
from thincow.store.disk import Disk

_numbers = itertools.count()

TIME_SUFFIX = ".mtime"
"""Beside an upstream file the simulated disk has one of this name that holds its modification time.

It is written with the file, and durable after an fsync; fdatasync leaves it out.
"""


class Recorder:
    """The list of operations, each with the marks that were up when it came.

    Args:
        root: directory of the real files; only what is below it is recorded.
        start: the disk as it is now.
    """

    def __init__(self, root: Path, start: DiskImage) -> None:
        self.root = root
        self.operations: list[Operation] = []
        self.marks: list[tuple[int, int]] = []
        """Number of the last acknowledged and of the last begun write, for each operation."""
        self.mark: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.fail_sync: Callable[[str], bool] = lambda _path: False
        """Asked before each sync of a file, by its path: whether it is to fail."""
        self.meanwhile: Callable[[], None] = lambda: None
        """Called after each write to upstream: what other threads do."""
        self.is_cold = False
        """Reads find nothing in the page cache."""
        self.names = dict(start.names)
        for operation in start.pending_names:
            operation.apply(self.names)
        known = [*start.files, *start.pending, *start.orphans]
        known += [file for file in self.names.values() if file is not None]
        self._next_file = max(known, default=0) + 1

    def add(self, operation: Operation) -> None:
        self.marks.append(self.mark())
        self.operations.append(operation)

    def name_of(self, path: str | os.PathLike[str]) -> str:
        """Return the path relative to the root; empty for the root itself."""
        relative = os.path.relpath(path, self.root)
        return "" if relative == "." else relative

    def opened(self, path: str | os.PathLike[str], flags: int, existed: bool) -> int:
        """Note that a file was opened; return its number."""
        name = self.name_of(path)
        if not existed or name not in self.names:
            assert flags & os.O_CREAT, f"{name} appeared from nowhere"
            self._notice_directory(name.rpartition("/")[0])
            self.names[name] = self._next_file
            self.add(Link(name, self._next_file))
            self._next_file += 1
        file = self.names[name]
        assert file is not None
        if flags & os.O_TRUNC:
            self.add(Resize(file, 0))
        return file

    def sync_directory(self, path: str | os.PathLike[str]) -> None:
        # Directories are not made through the seam, so they are noticed here.
        for entry in os.scandir(path):
            if entry.is_dir():
                self._notice_directory(self.name_of(entry.path))
        self.add(SyncDirectory(self.name_of(path)))

    def _notice_directory(self, name: str) -> None:
        if name and name not in self.names:
            self.names[name] = None
            self.add(Link(name, None))

    def sync(self, file: int) -> None:
        """Record a sync, or let it fail as the test wants it.

        Raises:
            OSError: EIO.
        """
        name = next((name for name, number in self.names.items() if number == file), "")
        if self.fail_sync(name):
            self.add(Sync(file, succeeded=False))
            raise OSError(errno.EIO, "planted failure of a sync")
        self.add(Sync(file))

    def rename(self, source: str, target: str) -> None:
        self.names[target] = self.names.pop(source)
        self.add(Rename(source, target))

    def unlink(self, name: str) -> None:
        if name in self.names:
            del self.names[name]
            self.add(Unlink(name))

    def notice_outsider(self, name: str, content: bytes | None) -> None:
        """Record what another process, which syncs what it writes, made of a file."""
        file = self.names.get(name)
        if file is None:
            return
        if content is None:
            self.unlink(name)
            self.add(SyncDirectory(name.rpartition("/")[0]))
            return
        for operation in (Write(file, 0, content), Resize(file, len(content)), Sync(file)):
            self.add(operation)


class PlainDisk(Disk):
    """A disk whose files are always in the page cache (tmpfs cannot be asked)."""

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> bool:
        return os.preadv(fd, (buffer,), offset) == len(buffer)


class RecordingDisk(PlainDisk):
    """The seam for everything but the database, recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.vfs = RecordingVFS(recorder)
        self.sqlite_vfs = self.vfs.name
        self._files: dict[int, int] = {}
        self._times: dict[int, int] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        existed = path.exists()
        fd = super().open(path, flags, mode)
        self._files[fd] = self.recorder.opened(path, flags, existed)
        times = self.recorder.names.get(self.recorder.name_of(path) + TIME_SUFFIX)
        if times is not None:
            self._times[fd] = times
        return fd

    def close(self, fd: int) -> None:
        del self._files[fd]
        self._times.pop(fd, None)
        super().close(fd)

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> bool:
        return not self.recorder.is_cold and super().read_cached(fd, buffer, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        time_ns = os.fstat(fd).st_mtime_ns + 1
        super().write(fd, data, offset)
        self.recorder.add(Write(self._files[fd], offset, bytes(data)))
        self._set_time(fd, time_ns)

    def sync(self, fd: int) -> None:
        self.recorder.sync(self._files[fd])

    def sync_whole(self, fd: int) -> None:
        self.recorder.sync(self._files[fd])
        if fd in self._times:
            self.recorder.sync(self._times[fd])

    def sync_directory(self, path: Path) -> None:
        self.recorder.sync_directory(path)

    def truncate(self, fd: int, size: int) -> None:
        time_ns = os.fstat(fd).st_mtime_ns + 1
        super().truncate(fd, size)
        self._add(Resize(self._files[fd], size))
        self._set_time(fd, time_ns)

    def claim(self, fd: int, offset: int, length: int) -> None:
        super().claim(fd, offset, length)
        self._add(Claim(self._files[fd], offset + length))

    def punch(self, fd: int, offset: int, length: int) -> None:
        super().punch(fd, offset, length)
        self._add(Punch(self._files[fd], offset, length))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.recorder.rename(self.recorder.name_of(source), self.recorder.name_of(target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.recorder.unlink(self.recorder.name_of(path))

    def _set_time(self, fd: int, time_ns: int) -> None:
        """Let upstream files have a modification time of their own, which survives by itself."""
        if fd in self._times:
            os.utime(fd, ns=(time_ns, time_ns))
            self.recorder.add(Write(self._times[fd], 0, time_ns.to_bytes(8, "little")))
            self.recorder.meanwhile()

    def _add(self, operation: Contents) -> None:
        self.recorder.add(operation)


class RecordingVFS(apsw.VFS):
    """The system's VFS, recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.name = f"recording{next(_numbers)}"
        super().__init__(self.name, "")

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile("", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        existed = Path(path).exists()
        file = RecordedFile("", name, flags)
        creates = flags[0] & apsw.SQLITE_OPEN_CREATE
        number = self.recorder.opened(path, os.O_CREAT if creates else 0, existed)
        # As the system's VFS does it: the first sync of a new journal covers its name as well.
        is_journal = flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        file.start(self.recorder, number, Path(path).parent if creates and is_journal else None)
        return file

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        super().xDelete(name, sync_directory)
        self.recorder.unlink(self.recorder.name_of(name))
        if sync_directory:
            self.recorder.sync_directory(Path(name).parent)


class RecordedFile(apsw.VFSFile):
    """A file of SQLite's; `start` comes before anything else."""

    def start(self, recorder: Recorder, number: int, directory: Path | None) -> None:
        self._recorder = recorder
        self._number = number
        self._directory = directory

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recorder.add(Write(self._number, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._recorder.add(Resize(self._number, size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        try:
            self._recorder.sync(self._number)
        except OSError as error:
            failure = apsw.IOError("planted failure of a sync")
            failure.extendedresult = apsw.SQLITE_IOERR_FSYNC
            raise failure from error
        if self._directory is not None:
            self._recorder.sync_directory(self._directory)
            self._directory = None
