"""The file /flush: commands to write changes back upstream, and how the last one went.

A command runs when its line is complete, or when the handle is closed, and its failure is the
errno of that write or close. The same words as an extended attribute of the mount only begin a
flush. Requests go on while a flush runs; another handle can cancel it.
"""

import errno
import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from thincow.engine.engine import Engine
from thincow.engine.flush import Flush
from thincow.engine.flush_steps import Pause, Step
from thincow.errors import FlushError, RequestError, ThincowError
from thincow.mount.client_sync import sync_files
from thincow.mount.commit_scheduler import CommitScheduler
from thincow.mount.device_file import DeviceFiles
from thincow.mount.flush_words import CANCEL, parse_order, parse_order_of_devices

_log = logging.getLogger(__name__)

_MAX_COMMAND_BYTES: Final = 64
_WAIT_S: Final = 0.002


class FlushRunner:
    """Goes through the steps of flushes, each in its proper place."""

    def __init__(
        self,
        engine: Engine,
        scheduler: CommitScheduler,
        files: DeviceFiles,
        paths: Mapping[int, Path],
    ) -> None:
        """Flush an engine, whose devices are shown as `files`, at `paths` by their ids."""
        self._engine = engine
        self._many_hints = engine.options.tuning.max_waiting_hints // 2
        self._scheduler = scheduler
        self._files = files
        self._paths = paths
        self._limiter = trio.CapacityLimiter(1)
        self.between_batches = trio.Lock()
        """Held by whoever wants no batch to be under way, and during each batch."""
        self._syncing = trio.CancelScope()
        """Cancelled, it abandons the sync with which a flush begins."""
        self._is_ending = False
        self._send, self._begun = trio.open_memory_channel[Flush](1)

    @property
    def is_awaited(self) -> bool:
        """Whether a step of a flush runs in a thread."""
        return self._limiter.borrowed_tokens > 0

    async def execute(self, command: str) -> None:
        """Run one command.

        Raises:
            pyfuse3.FUSEError: EINVAL when there is no such command.
            RequestError: when it failed.
        """
        if command == CANCEL:
            self._cancel()
            return
        with _invalid_words():
            order = parse_order(command)
        await self._carry_out(self._engine.flush.begin(order))

    def start(self, words: str) -> None:
        """Begin a flush, of some devices perhaps, or cancel one; `run` carries it out.

        Raises:
            pyfuse3.FUSEError: EINVAL when there is no such command.
            RequestError: when it cannot begin.
        """
        if words == CANCEL:
            self._cancel()
            return
        with _invalid_words():
            order = parse_order_of_devices(words)
        self._send.send_nowait(self._engine.flush.begin(order))

    async def run(self) -> None:
        """Carry out what `start` began, until cancelled; a batch is never left half done."""
        async for flush in self._begun:
            with trio.CancelScope(shield=True):
                try:
                    await self._carry_out(flush)
                except RequestError:
                    pass  # it was logged, and the status tells
                except Exception:  # noqa: BLE001 - the next one must go on
                    _log.exception("a flush failed unexpectedly")

    def stop(self) -> None:
        """Let the running flush end after its batch: nobody answers requests soon."""
        self._is_ending = True
        self._cancel()

    def _cancel(self) -> None:
        self._engine.flush.cancel()
        self._syncing.cancel()

    async def _carry_out(self, flush: Flush) -> None:
        failure: ThincowError | None = None
        steps = flush.steps()
        try:
            await self._sync_clients(flush)
            goes_on = True
            while goes_on:
                while self._engine.holds and not flush.is_cancelled:
                    await trio.sleep(_WAIT_S)
                async with self.between_batches:
                    goes_on = await self._next_batch(steps)
        except ThincowError as error:
            failure = error
            _log.error("flush: %s", error)
            raise
        finally:
            steps.close()
            self._engine.flush.end(failure)

    async def _next_batch(self, steps: Generator[Step, None, None]) -> bool:
        """Go through the steps of a batch; tell whether there is another one."""
        step = next(steps, None)
        while step is not None and step is not Pause.BETWEEN:
            try:
                if step is Pause.COMMIT:
                    await self._scheduler.sync()
                elif isinstance(step, Pause):
                    await trio.sleep(_WAIT_S)
                else:
                    # What batches taught is committed later, or meanwhile when it is very much.
                    if self._engine.hints_waiting > self._many_hints:
                        self._scheduler.note_change()
                    await trio.to_thread.run_sync(step.run, limiter=self._limiter)
            except RequestError as error:
                steps.throw(error)
            # No checkpoint from here to the next step: the flush relies on it.
            step = next(steps, None)
        return step is not None

    async def _sync_clients(self, flush: Flush) -> None:
        """Let the kernel send what it still holds of mapped files.

        In a process of its own: a thread that waits for our own mount could not be killed. Nor
        can that process be, so a flush that is cancelled abandons it, and it ends with the mount.

        Raises:
            FlushError: when that failed: the flush would leave out what was written.
        """
        with trio.CancelScope() as self._syncing:
            if self._is_ending:
                flush.cancel()
            devices = self._files.to_sync
            if devices and not flush.is_cancelled:
                try:
                    await sync_files([str(self._paths[number]) for number in sorted(devices)])
                except FlushError:
                    self._files.note_synced(devices)
                    raise
                self._files.note_synced(devices)


@contextmanager
def _invalid_words() -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise pyfuse3.FUSEError(errno.EINVAL) from None


class FlushHandle:
    """/flush, opened: the state at that time to read, commands to write."""

    def __init__(self, handle: int, state: bytes, runner: FlushRunner) -> None:
        self.info = pyfuse3.FileInfo(fh=handle, direct_io=True, keep_cache=False)
        self._state = state
        self._runner = runner
        self._line = b""

    async def read(self, offset: int, length: int) -> bytes:
        """Read from the state at the time of opening."""
        return self._state[offset : offset + length]

    async def write(self, _offset: int, data: bytes) -> int:
        """Take (a part of) a command; run it when its line is complete."""
        self._line += data
        while b"\n" in self._line:
            line, self._line = self._line.split(b"\n", 1)
            await self._execute(line)
        if len(self._line) > _MAX_COMMAND_BYTES:
            self._line = b""
            raise pyfuse3.FUSEError(errno.EINVAL)
        return len(data)

    async def sync(self) -> None:
        """Do nothing: there is nothing to make durable."""

    async def flush(self) -> None:
        """Run a command whose line was not completed: the handle is being closed."""
        line, self._line = self._line, b""
        if line:
            await self._execute(line)

    def close(self) -> None:
        """Do nothing: what was left over has run."""

    async def _execute(self, line: bytes) -> None:
        await self._runner.execute(line.decode("ascii", errors="replace").strip())
