"""Lays a crash state out as real files, opens it with the real engine, and says what it found."""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import apsw

from tests.crash.crash_states import State
from tests.crash.history import Contents
from tests.crash.recording import PlainDisk
from tests.crash.setting import Setting, leave, read_all
from thincow.engine import fsck
from thincow.engine.engine import open_engine
from thincow.store.snapshot import Snapshot

_DISK = PlainDisk()
_UPSTREAM_MTIME_NS = 10**18


@dataclass(frozen=True, slots=True)
class Found:
    """What a state holds; `problem` says in one line what is wrong whatever it should hold."""

    contents: Contents | None
    problem: str | None = None


class Layout:
    """Real files below a root, made to look like a state.

    Files of upstream are written only when they differ, and in place: the store knows their
    inodes and times.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._upstream: dict[str, bytes | None] = {}

    def make(self, state: State) -> None:
        """Make the files below the root those of a state, and nothing else."""
        for directory in self._root.iterdir():
            if directory.name != "upstream":
                self._clear(directory, state)
        for path, content in state.items():
            real = self._root / path
            if content is None:
                real.mkdir(exist_ok=True)
            elif not path.startswith("upstream/"):
                _write(real, content)
            elif self._upstream.get(path) != content:
                _write(real, content)
                os.utime(real, ns=(_UPSTREAM_MTIME_NS, _UPSTREAM_MTIME_NS))
                self._upstream[path] = content

    def _clear(self, directory: Path, state: State) -> None:
        for path in directory.iterdir():
            if state.get(f"{directory.name}/{path.name}") is None:
                path.unlink()
        if directory.name not in state:
            directory.rmdir()


def _write(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
    finally:
        os.close(fd)


def examine(setting: Setting, *, check: bool, thorough: bool) -> Found:
    """Open the store with the system's SQLite, read every block, and check the metadata.

    Args:
        setting: says where the store is.
        check: check the metadata; not needed when the same ones were found sound before.
        thorough: close it properly as well, check it offline, and read it again.
    """
    try:
        engine = open_engine(setting.options, _DISK)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
        return Found(None, f"cannot be opened: {type(error).__name__}: {error}")
    database = engine._store.database
    closed = False
    try:
        contents = read_all(engine)
        if not thorough:
            # Nothing comes after this: the transaction of the check may stay open.
            problem = _check_open(setting, database.reader) if check else None
        else:
            with closing(database.open_snapshot()) as db:
                problem = _check_open(setting, db)
            closed = True
            engine.close()
            problem = problem or _check_closed(setting, contents)
    except Exception as error:  # noqa: BLE001 - as above
        return Found(None, f"{type(error).__name__}: {error}")
    finally:
        if not closed:
            leave(engine)
    return Found(contents, problem)


def _check_open(setting: Setting, db: apsw.Connection) -> str | None:
    snapshot = Snapshot(db)
    size = (setting.options.data_dir / "cowdata").stat().st_size
    report = fsck.check_snapshot(snapshot, cowdata_bytes=size)
    return f"fsck: {report.findings[0]}" if report.findings else None


def _check_closed(setting: Setting, contents: Contents) -> str | None:
    options = setting.options
    report = fsck.check(options.data_dir, options.metadata_dir, options.upstream_dir)
    if report.findings:
        return f"fsck after closing: {report.findings[0]}"
    engine = open_engine(options, _DISK)
    try:
        return None if read_all(engine) == contents else "contents change when it is closed"
    finally:
        leave(engine)
