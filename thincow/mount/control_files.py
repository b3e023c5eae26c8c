"""The virtual files: statistics, dumps for debugging, and /flush.

Each is rendered when it is opened, so that one handle sees one state. Large ones are written to a
temporary file from a snapshot of the database, in a worker thread. They are not cached by the
kernel, and their size is shown as 0, as that of files in /proc.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import IO, Final

import pyfuse3
import trio

from thincow.engine.engine import Engine
from thincow.engine.reports import (
    cow_text,
    extents_text,
    hash_table_text,
    stats_full_text,
    stats_text,
)
from thincow.errors import RequestError
from thincow.mount.commit_scheduler import CommitScheduler
from thincow.mount.flush_file import FlushHandle, FlushRunner
from thincow.mount.hold_file import HoldHandle, open_hold
from thincow.mount.inode_tree import ControlKind
from thincow.store.snapshot import Snapshot

_MAX_RENDERED_AT_ONCE: Final = 2


class ControlHandle:
    """One open virtual file with its content."""

    def __init__(self, handle: int, content: IO[bytes]) -> None:
        self.info = pyfuse3.FileInfo(fh=handle, direct_io=True, keep_cache=False)
        self._content = content

    async def read(self, offset: int, length: int) -> bytes:
        """Read from the state at the time of opening."""
        self._content.seek(offset)
        return self._content.read(length)

    async def write(self, _offset: int, _data: bytes) -> int:
        """Refuse: there is nothing to command here."""
        raise pyfuse3.FUSEError(errno.ENOTSUP)

    async def sync(self) -> None:
        """Do nothing: there is nothing to make durable."""

    async def flush(self) -> None:
        """Do nothing: nothing waits to be done."""

    def close(self) -> None:
        """Drop the content."""
        self._content.close()


class ControlFiles:
    """Renders the virtual files of one engine."""

    def __init__(self, engine: Engine, scheduler: CommitScheduler, flusher: FlushRunner) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._flusher = flusher
        self._limiter = trio.CapacityLimiter(_MAX_RENDERED_AT_ONCE)
        self._from_snapshot: dict[ControlKind, Callable[[Snapshot], Iterable[str]]] = {
            ControlKind.STATS_FULL: self._stats_full,
            ControlKind.EXTENTS: extents_text,
            ControlKind.COW: cow_text,
            ControlKind.HASH_TABLE: hash_table_text,
            ControlKind.FLUSH_PLAN: self._flush_plan,
        }

    async def open(
        self, kind: ControlKind, handle: int
    ) -> ControlHandle | FlushHandle | HoldHandle:
        """Render a file.

        Raises:
            RequestError: when changes must be committed first and cannot be.
        """
        if kind in self._from_snapshot:
            return ControlHandle(handle, await self._render(self._from_snapshot[kind]))
        if kind is ControlKind.FLUSH:
            state = f"{await self._status()}\n"
            return FlushHandle(handle, state.encode(errors="surrogateescape"), self._flusher)
        if kind is ControlKind.HOLD:
            return await open_hold(self._engine, self._scheduler, self._flusher, handle)
        if kind is ControlKind.STATS:
            text = stats_text(self._engine)
        else:
            assert kind is ControlKind.PID
            text = f"{os.getpid()}\n"
        return ControlHandle(handle, BytesIO(text.encode(errors="surrogateescape")))

    async def content(self, kind: ControlKind, max_bytes: int) -> bytes:
        """Return what a file holds, at most so much of it.

        Raises:
            RequestError: as `open` does.
        """
        handle = await self.open(kind, 0)
        try:
            return await handle.read(0, max_bytes)
        finally:
            handle.close()

    def start_flush(self, words: bytes) -> None:
        """Take a command for a flush, without waiting for its end.

        Raises:
            pyfuse3.FUSEError: EINVAL when there is no such command.
            RequestError: when it cannot begin.
        """
        self._flusher.start(os.fsdecode(words))

    async def _status(self) -> str:
        """Return the state of the map, which is known for sure only of what is committed."""
        if self._engine.flush.is_running:
            return self._engine.status()
        with contextlib.suppress(RequestError):
            await self._scheduler.sync()
        return self._engine.status()

    async def _render(self, report: Callable[[Snapshot], Iterable[str]]) -> IO[bytes]:
        await self._scheduler.sync()
        # The snapshot commits what came in since, which is little, and must be the only one to.
        async with self._scheduler.no_commit_running():
            snapshot = self._engine.snapshot()
        return await trio.to_thread.run_sync(
            _write_out, report, snapshot, self._engine.options.temp_dir, limiter=self._limiter
        )

    def _stats_full(self, snapshot: Snapshot) -> Iterator[str]:
        yield stats_full_text(self._engine, snapshot)

    def _flush_plan(self, snapshot: Snapshot) -> Iterator[str]:
        yield self._engine.flush.plan(snapshot).as_json() + "\n"


def _write_out(
    report: Callable[[Snapshot], Iterable[str]], snapshot: Snapshot, temp_dir: Path | None
) -> IO[bytes]:
    try:
        content = _temporary_file(temp_dir)
        try:
            for text in report(snapshot):
                content.write(text.encode(errors="surrogateescape"))
        except BaseException:
            content.close()
            raise
        return content
    finally:
        snapshot.close()


def _temporary_file(temp_dir: Path | None) -> IO[bytes]:
    if temp_dir is not None:
        return tempfile.TemporaryFile(dir=temp_dir)
    return os.fdopen(os.memfd_create("thincow-report"), "w+b")
