"""Freezing: at SIGTSTP the process stops in a state in which its store can be copied.

Between two batches of a flush, and with no commit under way, everything is committed and the
write-ahead log merged into the database, in the thread that serves requests: so nothing that was
acknowledged is missing, and no thread writes to upstream or to what the store refers to (one may
be giving free space back). Then the process stops itself with SIGSTOP, since an orphaned process
group ignores SIGTSTP. SIGCONT goes on, and takes back a freezing that is still waiting.
"""

import logging
import signal
from typing import Final

import trio

from thincow.engine.engine import Engine
from thincow.errors import RequestError
from thincow.mount.commit_scheduler import CommitScheduler
from thincow.mount.flush_file import FlushRunner

_log = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGTSTP, signal.SIGCONT)


class Freezer:
    """Freezes one mount."""

    def __init__(self, engine: Engine, scheduler: CommitScheduler, flusher: FlushRunner) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._flusher = flusher

    async def run(self) -> None:
        """Freeze whenever SIGTSTP comes; never returns."""
        with trio.open_signal_receiver(*_SIGNALS) as incoming:
            async with trio.open_nursery() as nursery:
                attempt = trio.CancelScope()
                async for number in incoming:
                    attempt.cancel()
                    if number == signal.SIGTSTP:
                        attempt = trio.CancelScope()
                        nursery.start_soon(self._freeze, attempt)

    async def _freeze(self, attempt: trio.CancelScope) -> None:
        with attempt:
            async with self._flusher.between_batches, self._scheduler.no_commit_running():
                # Until the process goes on nothing is awaited from here.
                try:
                    self._engine.commit(merge_log=True)
                except RequestError as error:
                    _log.error("not frozen, since a copy would lack changes: %s", error)
                    return
                _log.info("frozen until SIGCONT ('thincow thaw')")
                signal.raise_signal(signal.SIGSTOP)
                _log.info("no longer frozen")
