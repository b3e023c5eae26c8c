"""A seeded random session with the real engine on a recorded disk, beside the model.

Reads are compared with the model at once. Writes, commits (with requests before, during and after
their slow part), snapshots, restarts, kills, shells that look in, and syncs that fail leave their
operations in the recorder.
"""

import random
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw

from tests.crash.history import Contents, History
from tests.crash.recording import Recorder, RecordingDisk
from tests.crash.setting import Setting, leave, patiently, read_all
from tests.support.random_operations import Mix, Operation, OperationGenerator
from thincow.engine.engine import Engine, open_engine
from thincow.errors import (
    BlockReadError,
    ConfigurationError,
    NoSpaceError,
    PastEndError,
    StoreFailedError,
)
from thincow.store.snapshot import Snapshot


class LiveMismatchError(AssertionError):
    """Raised when a read differs from the model while nothing was cut."""


class Session:
    """One random session; `run` ends it in the middle of things.

    Args:
        setting: how the store is made.
        recorder: of the disk that the store is on.
        history: the model; its devices are as the store has them.
        generator: decides what happens.
    """

    def __init__(
        self, setting: Setting, recorder: Recorder, history: History, generator: random.Random
    ) -> None:
        self._options = setting.options
        self._recorder = recorder
        self._history = history
        self._random = generator
        mix = Mix(truncate=setting.truncates)
        self._operations = OperationGenerator(generator.randrange(1 << 30), history.model, mix)
        self._disk = RecordingDisk(recorder)
        self._engine: Engine | None = None
        self._snapshots: list[Snapshot] = []
        self._failures = 0
        self._shells = setting.shells
        recorder.mark = lambda: history.marks

    def run(self, steps: int) -> None:
        """Do a number of steps.

        Raises:
            LiveMismatchError: when a read differs from the model.
        """
        try:
            self._attempt(self._open)
            for _ in range(steps):
                if self._engine is not None:
                    self._attempt(self._step)
            self._compare_all()
        finally:
            self._abandon()

    def fail_a_sync(self, ending: str) -> None:
        """Let one sync of the file whose name ends so fail."""
        left = self._random.randrange(1, 12)

        def fails(path: str) -> bool:
            nonlocal left
            left -= path.endswith(ending)
            if left != 0:
                return False
            left = -1
            self._failures += 1
            return True

        self._recorder.fail_sync = fails

    def contents(self) -> Contents:
        """Read everything through the engine."""
        return read_all(self._opened)

    @property
    def _opened(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something that may be refused after the planted failure, and only then."""
        try:
            action()
        # Closing the database ignores errors, unless they are raised in Python as this one is.
        except (StoreFailedError, ConfigurationError, apsw.IOError):
            if not self._failures:
                raise

    def _open(self) -> None:
        self._engine = engine = open_engine(self._options, self._disk)
        assert engine._committer is not None
        commit = engine._committer.commit

        def noted(**options: bool) -> None:
            self._history.freeze()
            commit(**options)

        # The engine commits of its own accord when that makes room.
        engine._committer.commit = noted

    def _step(self) -> None:
        actions = self._actions()
        self._random.choices(list(actions), list(actions.values()))[0]()

    def _actions(self) -> dict[Callable[[], None], float]:
        """Return what may happen, and how often, in percent about."""
        return {
            self._request: 70.0,
            self._commit: 12,
            self._overlapping: 10,
            self._snapshot: 3,
            self._restart: 4,
            self._kill: 0 if self._failures else 3,
            self._shell: self._shells,
        }

    def _request(self) -> None:
        operation = self._operations.next_operation()
        if operation.kind == "read":
            self._read(operation)
        elif operation.kind == "write":
            self._write(operation)
        elif operation.kind == "truncate":
            self._truncate(operation)

    def _read(self, operation: Operation) -> None:
        device = self._opened.devices[operation.device]
        at, length = operation.offset, operation.length
        with suppress(*[BlockReadError] if self._failures else []):
            found = bytes(patiently(lambda fetch: self._opened.read(device, at, length, fetch)))
            self._compare(found, self._history.model.read(operation.device, at, length), operation)

    def _write(self, operation: Operation) -> None:
        device = self._opened.devices[operation.device]
        with suppress(NoSpaceError, PastEndError):
            at, data = operation.offset, operation.data
            patiently(lambda fetch: self._opened.write(device, at, data, fetch))
            # Only a later commit can make it durable: now is early enough for the model.
            self._history.write(operation.device, operation.offset, operation.data)

    def _truncate(self, operation: Operation) -> None:
        device, size = self._opened.devices[operation.device], operation.length
        with suppress(NoSpaceError):
            reached = patiently(lambda fetch: self._opened.resize(device, size, fetch))
            assert reached == size, "so small a device is cut at once"
            self._history.truncate(operation.device, size)

    def _commit(self) -> None:
        moment = self._history.freeze()
        self._opened.commit()
        self._history.acknowledge(moment)

    def _overlapping(self) -> None:
        """Commit and punch in steps, with requests of the next epoch between them."""
        engine = self._opened
        moment = self._history.freeze()
        assert engine.space_return is not None
        commit = engine.freeze(is_awaited=self._random.random() < 0.5)
        engine.space_return.is_left = True
        if commit is not None:
            self.some_requests()
            commit.run()
            self.some_requests()
            engine.finish(commit)
        self._history.acknowledge(moment)
        punch = None if engine.failed else engine.space_return.begin()
        if punch is not None:
            self.some_requests()
            punch.run()
            self.some_requests()
            engine.space_return.end(punch)
        engine.space_return.is_left = False

    def some_requests(self) -> None:
        """Read and write something."""
        for _ in range(self._random.randrange(3)):
            self._request()

    def _snapshot(self) -> None:
        """Let a reader hold an old state for a while: checkpoints cannot finish meanwhile."""
        if self._snapshots:
            self._snapshots.pop().close()
            return
        moment = self._history.freeze()
        self._snapshots.append(self._opened.snapshot())
        if not self._opened.failed:
            self._history.acknowledge(moment)

    def _restart(self) -> None:
        self._end_snapshots()
        moment = self._history.freeze()
        engine, self._engine = self._opened, None
        failed = engine.failed
        engine.close()
        if failed:
            return
        self._history.acknowledge(moment)
        self._open()
        self._compare_all()

    def _kill(self) -> None:
        """End as by SIGKILL: what was not committed is gone, what was written is visible."""
        self._abandon()
        self._open()
        found = self.contents()
        problem = self._history.judge(found, *self._history.marks)
        if problem is not None:
            raise LiveMismatchError(f"after a kill: {problem}")
        self._history.adopt(found)

    def _shell(self) -> None:
        """Let a `sqlite3` shell look in and leave.

        Its changes are noticed by `stat` and read by another process: to close a descriptor of
        these files here would drop the engine's locks.
        """
        directory = self._options.metadata_dir
        assert directory is not None
        paths = [directory / "metadata.db", directory / "metadata.db-wal"]
        before = [_identity(path) for path in paths]
        query = "SELECT count(*) FROM extents"
        subprocess.run(["sqlite3", paths[0], query], check=True, capture_output=True)
        for path, identity in zip(paths, before, strict=True):
            if _identity(path) != identity:
                found = subprocess.run(["cat", path], check=False, capture_output=True)
                content = found.stdout if found.returncode == 0 else None
                self._recorder.notice_outsider(self._recorder.name_of(path), content)

    def _compare_all(self) -> None:
        for device in self._engine.devices if self._engine is not None else ():
            number, size = self._opened.devices.index(device), device.size_bytes
            if size != self._history.model.size(number):
                raise LiveMismatchError(f"device {number} has {size} bytes")
            self._read(Operation("read", number, 0, size))

    def _compare(self, found: bytes, expected: bytes, what: Operation) -> None:
        # After a failed sync, blocks of which nobody knows whether they are on disk are refused.
        if found != (expected[: len(found)] if self._failures else expected):
            raise LiveMismatchError(f"{what} differs from the model")

    def _end_snapshots(self) -> None:
        while self._snapshots:
            self._snapshots.pop().close()

    def _abandon(self) -> None:
        self._end_snapshots()
        engine, self._engine = self._engine, None
        if engine is not None:
            leave(engine)


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
