"""The file /flush: commands to write changes back upstream, and how the last one went.

A command runs when its line is complete, or when the handle is closed, and its failure is the
errno of that write or close. Requests go on while a flush runs; another handle can cancel it.
"""

import errno
import logging
import re
import subprocess
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from thincow.engine.engine import Engine
from thincow.engine.flush import FlushOrder
from thincow.engine.flush_steps import Pause, Step
from thincow.errors import RequestError, ThincowError
from thincow.mount.commit_scheduler import CommitScheduler

_log = logging.getLogger(__name__)

_MAX_COMMAND_BYTES: Final = 64
_WAIT_S: Final = 0.002
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


class FlushRunner:
    """Goes through the steps of flushes, each in its proper place."""

    def __init__(
        self, engine: Engine, scheduler: CommitScheduler, device_paths: Iterable[Path]
    ) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._device_paths = [str(path) for path in device_paths]
        self._limiter = trio.CapacityLimiter(1)
        self.between_batches = trio.Lock()
        """Held by whoever wants no batch to be under way, and during each batch."""

    async def execute(self, command: str) -> None:
        """Run one command.

        Raises:
            pyfuse3.FUSEError: EINVAL when there is no such command.
            RequestError: when it failed.
        """
        if command == "cancel":
            self._engine.flush.cancel()
            return
        if command == "full":
            order = FlushOrder()
        elif command == "max":
            order = FlushOrder(copies=False)
        elif _NUMBER.fullmatch(command):
            order = FlushOrder(max_blocks=int(command))
        else:
            raise pyfuse3.FUSEError(errno.EINVAL)
        await self._flush(order)

    async def _flush(self, order: FlushOrder) -> None:
        control = self._engine.flush
        flush = control.begin(order)
        failure: ThincowError | None = None
        steps = flush.steps()
        try:
            await self._sync_clients()
            goes_on = True
            while goes_on:
                async with self.between_batches:
                    goes_on = await self._next_batch(steps)
        except ThincowError as error:
            failure = error
            _log.error("flush: %s", error)
            raise
        finally:
            steps.close()
            control.end(failure)

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
                    await trio.to_thread.run_sync(step.run, limiter=self._limiter)
            except RequestError as error:
                steps.throw(error)
            # No checkpoint from here to the next step: the flush relies on it.
            step = next(steps, None)
        return step is not None

    async def _sync_clients(self) -> None:
        """Let the kernel send what it still holds of mapped files.

        In a process of its own: a thread that waits for our own mount could not be killed.
        """
        try:
            await trio.run_process(
                ["sync", "--", *self._device_paths],
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                start_new_session=True,  # Ctrl-Z at the terminal is not for it
            )
        except OSError as error:
            _log.warning("flush: the files cannot be synced first: %s", error)


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
