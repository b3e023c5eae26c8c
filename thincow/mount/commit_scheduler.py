"""When commits happen and who waits for them.

One commit at a time. Whoever asks for durability is served by a commit that was frozen after the
request; all who ask while one runs share the next one. Reads and writes go on meanwhile.

Invariants:

* between `freeze` and `finish` of one commit no other begins: both happen under `_running`;
* a commit is never abandoned: once frozen it is finished, also when the task is cancelled.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from thincow.engine.commit import Commit
from thincow.engine.engine import Engine
from thincow.errors import RequestError, StoreFailedError

_log = logging.getLogger(__name__)

_INLINE_LIMIT_S: Final = 0.003
"""A small commit runs in the event loop only while commits are quicker than this."""

_RETRY_PAUSE_S: Final = 1.0
"""Least time between a failed commit and the next that nobody waits for."""


class CommitScheduler:
    """Starts the commits of one engine."""

    def __init__(self, engine: Engine, interval_s: float) -> None:
        self._engine = engine
        self._interval_s = interval_s
        self._running = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._due = trio.Event()
        self._started = 0
        self._error: RequestError | None = None
        self._told: str | None = None
        self._last_took_s = 0.0
        self._committed = trio.Event()
        self._punch_limiter = trio.CapacityLimiter(1)
        if engine.space_return is not None:
            engine.space_return.is_left = True

    @property
    def is_awaited(self) -> bool:
        """Whether a commit runs in a thread."""
        return self._limiter.borrowed_tokens > 0

    async def run(self) -> None:
        """Commit when changes have waited long enough or have become many; never returns."""
        while True:
            with trio.move_on_after(self._interval_s):
                await self._due.wait()
            if self._error is not None:
                await trio.sleep(min(_RETRY_PAUSE_S, self._interval_s))
            self._due = trio.Event()
            if self._engine.is_dirty and not self._engine.failed:
                await self._commit_in_background()
                self.note_change()  # it may have taken only a part of what waits

    async def give_space_back(self) -> None:
        """Give free space back after commits, in a thread; never returns."""
        space_return = self._engine.space_return
        while space_return is not None:
            await self._committed.wait()
            self._committed = trio.Event()
            punch = None if self._engine.failed else space_return.begin()
            if punch is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(punch.run, limiter=self._punch_limiter)
                space_return.end(punch)

    def note_change(self) -> None:
        """Tell that there is more to commit than before: starts a commit when one is due."""
        if self._engine.commit_due:
            self._due.set()

    async def sync(self) -> None:
        """Return when everything written before the call is in a durable commit.

        Hash entries, which are hints, may be left to a commit that nobody waits for.

        Raises:
            RequestError: when that commit failed.
        """
        if self._engine.read_only:
            return
        wanted = self._started + 1
        try:
            # Not `acquire`, which goes through the event loop even when nothing is in the way.
            self._running.acquire_nowait()
        except trio.WouldBlock:
            await self._running.acquire()
        try:
            if self._started < wanted:
                await self._commit(is_awaited=True)
            elif self._error is not None:
                raise self._error
        finally:
            self._running.release()

    async def wait_for_room(self) -> None:
        """Hold a writer back while too much is uncommitted.

        Raises:
            RequestError: when the commit that should make room failed.
        """
        while self._engine.must_wait:
            await self.sync()

    @asynccontextmanager
    async def no_commit_running(self) -> AsyncIterator[None]:
        """Keep commits from starting inside the block, after the running one has ended."""
        async with self._running:
            yield

    async def _commit_in_background(self) -> None:
        try:
            async with self._running:
                await self._commit(is_awaited=False)
        except RequestError:
            pass  # it was logged, and is retried at every turn of the timer
        except Exception:  # noqa: BLE001 - the timer must go on
            _log.exception("commit failed unexpectedly")

    async def _commit(self, *, is_awaited: bool) -> None:
        """Freeze, run and finish one commit; the caller holds `_running`."""
        engine = self._engine
        self._started += 1
        # Whoever shares this commit must not take a surprise in here for success.
        self._error = StoreFailedError("a commit ended unexpectedly; see the log")
        try:
            if engine.failed:
                raise StoreFailedError("the store has failed in this mount; see the log")
            commit = engine.freeze(is_awaited=is_awaited)
            if commit is not None:
                await self._run(commit)
                engine.finish(commit)
                self._committed.set()
        except RequestError as error:
            self._error = error
            self._tell(str(error))
            raise
        self._error = None
        self._tell(None)

    def _tell(self, failure: str | None) -> None:
        """Log how commits fare when that changes, not each one of a series."""
        if failure == self._told:
            return
        if failure is None:
            _log.warning("commits succeed again")
        else:
            _log.error("commit failed: %s", failure)
        self._told = failure

    async def _run(self, commit: Commit) -> None:
        if commit.must_run_inline or (commit.is_small and self._last_took_s < _INLINE_LIMIT_S):
            commit.run(patient=False)
            if not commit.is_busy:
                self._last_took_s = commit.seconds
                return
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(commit.run, limiter=self._limiter)
        self._last_took_s = commit.seconds
