"""Lays a crash state out as real files, opens it with the real engine, and says what it found."""

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import apsw

from tests.crash.crash_states import State
from tests.crash.history import Contents
from tests.crash.recording import TIME_SUFFIX, PlainDisk
from tests.crash.setting import BLOCK_SIZE, Setting, leave, read_all
from thincow.block_types import device_of, first_address
from thincow.engine import fsck
from thincow.engine.engine import Engine, open_engine
from thincow.engine.findings import Code, Finding
from thincow.engine.flush_order import FlushOrder
from thincow.store.snapshot import Snapshot

_DISK = PlainDisk()
_MAX_TIME_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Found:
    """What a state holds; `problem` says in one line what is wrong whatever it should hold.

    `marked` are the upstream blocks (device, block) that a flush was writing.
    """

    contents: Contents | None
    problem: str | None = None
    marked: frozenset[tuple[int, int]] = frozenset()


class Layout:
    """Real files below a root, made to look like a state.

    All are written in place: the store knows the inodes of upstream files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self, state: State) -> None:
        """Make the files below the root those of a state, and nothing else."""
        for directory in self._root.iterdir():
            if directory.name != "upstream":
                self._clear(directory, state)
        for path, content in state.items():
            real = self._root / path
            if content is None:
                real.mkdir(exist_ok=True)
            elif path.endswith(TIME_SUFFIX):
                # It sorts behind the file whose time it holds, and so comes later.
                time_ns = int.from_bytes(content, "little") % _MAX_TIME_NS
                os.utime(real.with_suffix(""), ns=(time_ns, time_ns))
            else:
                _write(real, content)

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


def examine(setting: Setting, *, check: bool, thorough: bool, flush: bool = False) -> Found:
    """Open the store with the system's SQLite, read every block, and check the metadata.

    Args:
        setting: says where the store is.
        check: check the metadata; not needed when the same ones were found sound before.
        thorough: close it properly as well, check it offline, and read it again.
        flush: flush everything before it is closed.
    """
    try:
        engine = open_engine(replace(setting.options, max_cow_blocks=None), _DISK)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is wrong
        return Found(None, f"cannot be opened: {type(error).__name__}: {error}")
    database = engine._store.database
    marked = _marked_blocks(engine)
    closed = False
    try:
        contents = read_all(engine)
        if not thorough:
            # Nothing comes after this: the transaction of the check may stay open.
            problem = _check_open(setting, database.reader) if check else None
        else:
            with closing(database.open_snapshot()) as db:
                problem = _check_open(setting, db)
            if flush:
                problem = problem or _check_flush(setting, engine, contents)
            closed = True
            engine.close()
            problem = problem or _check_closed(setting, contents)
    except Exception as error:  # noqa: BLE001 - as above
        return Found(None, f"{type(error).__name__}: {error}")
    finally:
        if not closed:
            leave(engine)
    return Found(contents, problem, marked)


def judge_upstream(
    state: State, durable: dict[str, bytes | None], marked: frozenset[tuple[int, int]]
) -> str | None:
    """Return what is wrong with upstream: unmarked blocks must be what was synced last.

    Whether its size may be what it is was found out when the store was opened.

    Args:
        state: what a cut left.
        durable: what was synced before it.
        marked: blocks that a flush was writing, by the store in `state`.
    """
    for path, before in durable.items():
        found = state[path]
        if found == before or before is None or found is None or path.endswith(TIME_SUFFIX):
            continue
        device = int(path.removeprefix("upstream/device"))
        for block in range(-(-len(before) // BLOCK_SIZE)):
            end = min((block + 1) * BLOCK_SIZE, len(before), len(found))
            part = slice(block * BLOCK_SIZE, end)
            if found[part] != before[part] and (device, block) not in marked:
                return f"upstream block {block} of device {device} changed without a mark"
    return None


def _marked_blocks(engine: Engine) -> frozenset[tuple[int, int]]:
    ids = {device.id: number for number, device in enumerate(engine.devices)}
    return frozenset(
        (ids[device_of(first)], first + at - first_address(device_of(first)))
        for first, length in engine._store.marks
        for at in range(length)
    )


def _check_flush(setting: Setting, engine: Engine, contents: Contents) -> str | None:
    """Flush everything; upstream must be equal to the virtual devices then."""
    engine.flush.run(FlushOrder(batch_bytes=4 * BLOCK_SIZE))
    if engine.status() != "clean":
        return f"not clean after a flush: {engine.status()}"
    assert setting.options.upstream_dir is not None
    for device, content in zip(engine.devices, contents, strict=True):
        if (setting.options.upstream_dir / device.name).read_bytes() != content:
            return f"upstream device {device.name} is not what was shown before it was flushed"
    return None if read_all(engine) == contents else "contents change when they are flushed"


def _check_open(setting: Setting, db: apsw.Connection) -> str | None:
    snapshot = Snapshot(db)
    size = (setting.options.data_dir / "cowdata").stat().st_size
    report = fsck.check_snapshot(snapshot, cowdata_bytes=size)
    return f"fsck: {report.findings[0]}" if report.findings else None


def _is_old_hint(finding: Finding) -> bool:
    """Tell whether this is an entry of a reused block whose new one had no room in a tiny table."""
    return finding.code == Code.HASH_CONTENT and finding.message.startswith("COW block")


def _check_closed(setting: Setting, contents: Contents) -> str | None:
    options = setting.options
    report = fsck.check(options.data_dir, options.metadata_dir, options.upstream_dir, deep=True)
    problems = [finding for finding in report.findings if not _is_old_hint(finding)]
    if problems:
        return f"fsck after closing: {problems[0]}"
    engine = open_engine(options, _DISK)
    try:
        return None if read_all(engine) == contents else "contents change when it is closed"
    finally:
        leave(engine)
