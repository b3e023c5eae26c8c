"""A fixed piece of work with the engine on a disk of which one call fails.

The caller behaves as a mount does: what failed is done again, and after a failed sync the store
is closed and opened. So when the fault is gone everything must go on, and nothing acknowledged is
lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import apsw

from tests.crash.failing import FailingDisk, Fault
from tests.crash.history import History
from tests.crash.setting import Setting, leave, patiently, read_all
from tests.support.disk_model import DiskModel
from thincow.engine import fsck
from thincow.engine.engine import Engine, open_engine
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_steps import Pause
from thincow.engine.flush_write import BatchWrite
from thincow.errors import BlockReadError, RequestError, StoreFailedError, ThincowError
from thincow.store.disk import Disk
from thincow.store.failure_mark import write_mark

BLOCK = 512


@dataclass
class Service:
    """Does the work. `errors` are those that the fault caused."""

    setting: Setting
    fault: Fault
    errors: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._disk = FailingDisk(self.setting.root, self.fault)
        self._history = History(DiskModel(self.setting.upstream, BLOCK))
        self._engine: Engine | None = None
        self.is_reported = True

    def run(self) -> None:
        """Work, close, check, and look once more with a disk that does not fail."""
        try:
            self._work()
        finally:
            if self._engine is not None:
                leave(self._engine)
        options = self.setting.options
        report = fsck.check(options.data_dir, options.metadata_dir, options.upstream_dir)
        assert not report.findings
        engine = open_engine(options, Disk())
        try:
            assert read_all(engine) == self._history.contents()
        finally:
            engine.close()

    def _work(self) -> None:
        first, _, last = self.setting.upstream
        fresh = [bytes([number]) * BLOCK for number in range(1, 40)]
        self._open()
        self._write(0, 0, b"".join(fresh[:5]))
        self._commit()
        self._read()
        self._write(2, 0, first[: 4 * BLOCK])
        self._write(2, 4 * BLOCK, bytes(2 * BLOCK))
        self._write(0, BLOCK, fresh[10])
        self._commit()
        self._read()
        self._write(0, 3 * BLOCK + 100, b"part of a block" * 40)
        self._commit()
        self._snapshot()
        self._write(0, 0, b"".join(fresh[20:28]))
        self._flush()
        self._restart()
        write_mark(Disk(), self.setting.options.data_dir, "planted")
        self._restart()
        self._write(0, 0, first[: 6 * BLOCK])
        self._write(2, 0, last[:BLOCK] + b"".join(fresh[30:33]))
        self._commit()
        self._kill()
        self._write(2, 2 * BLOCK, b"".join(fresh[34:36]))
        self._commit()
        self._read()
        self._swap(0, 2, 3 * BLOCK)
        self._flush_and_kill()
        self._flush()
        self._read()
        self._restart()
        self._close()

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something; when the fault strikes, do what it asks for and then the same again."""
        fired = self.fault.fired
        try:
            action()
            return
        except ThincowError as error:
            self._note(error, fired)
        if self._engine is not None and self._engine.failed:
            self._expect_latched(self._engine)
            self._reopen()
        action()

    def _note(self, error: Exception, fired_before: bool) -> None:
        if fired_before or not self.fault.fired:
            raise AssertionError("fails without a fault") from error
        self.errors.append(error)

    def _expect_latched(self, engine: Engine) -> None:
        for call in (engine.commit, lambda: engine.write(engine.devices[0], 0, b"x")):
            try:
                call()
            except StoreFailedError:
                continue
            raise AssertionError("goes on after a failed sync")
        for number, device in enumerate(engine.devices):
            expected = self._history.contents()[number]
            for offset in range(0, device.size_bytes, BLOCK):
                try:
                    found = self._fetch(engine, number, offset, BLOCK)
                except BlockReadError:
                    continue  # of which nobody knows whether it is on disk
                assert found == expected[offset : offset + BLOCK]

    def _open(self) -> None:
        def action() -> None:
            self._engine = open_engine(self.setting.options, self._disk)

        self._attempt(action)

    def _opened(self) -> Engine:
        assert self._engine is not None
        return self._engine

    def _write(self, device: int, offset: int, data: bytes) -> None:
        def action() -> None:
            engine = self._opened()
            patiently(lambda fetch: engine.write(engine.devices[device], offset, data, fetch))

        self._attempt(action)
        self._history.write(device, offset, data)

    def _read(self) -> None:
        for device in range(len(self.setting.upstream)):
            self._attempt(lambda device=device: self._compare(device))

    def _compare(self, device: int) -> None:
        expected = self._history.contents()[device]
        found = self._fetch(self._opened(), device, 0, len(expected))
        if len(found) < len(expected):
            # The good part before a bad block, whose error comes when it is asked for.
            assert self.fault.fired
            found += self._fetch(self._opened(), device, len(found), len(expected) - len(found))
        assert found == expected

    def _fetch(self, engine: Engine, device: int, offset: int, length: int) -> bytes:
        where = engine.devices[device]
        return bytes(patiently(lambda fetch: engine.read(where, offset, length, fetch)))

    def _commit(self) -> None:
        def action() -> None:
            moment = self._history.freeze()
            self._opened().commit()
            self._history.acknowledge(moment)

        self._attempt(action)

    def _swap(self, first: int, second: int, length: int) -> None:
        """Let the beginnings of two devices change places: cycles, which need copies."""
        contents = self._history.contents()
        self._write(first, 0, contents[second][:length])
        self._write(second, 0, contents[first][:length])

    def _flush(self) -> None:
        self.is_reported = True
        self._attempt(self._flush_all)
        assert self.is_reported
        assert self._opened().status() == "clean"
        assert self._upstream() == self._history.contents()

    def _flush_all(self) -> None:
        moment = self._history.freeze()
        engine = self._opened()
        try:
            engine.flush.run(FlushOrder(batch_bytes=4 * BLOCK))
        except ThincowError as error:
            self.is_reported = engine.status() == f"error\n{error}"
            raise
        self._history.acknowledge(moment)

    def _flush_and_kill(self) -> None:
        """Cut a flush after its first batch was written, before the commit that knows of it."""

        def action() -> None:
            self._history.freeze()
            steps = self._opened().flush.begin(FlushOrder(batch_bytes=BLOCK)).steps()
            try:
                for step in steps:
                    if step is Pause.COMMIT:
                        self._opened().commit()
                    elif isinstance(step, BatchWrite):
                        step.run()
                        return
            finally:
                steps.close()
                self._opened().flush.end(None)

        self._attempt(action)
        self._kill()

    def _upstream(self) -> tuple[bytes, ...]:
        directory = self.setting.options.upstream_dir
        assert directory is not None
        return tuple((directory / device.name).read_bytes() for device in self._opened().devices)

    def _snapshot(self) -> None:
        def action() -> None:
            moment = self._history.freeze()
            self._opened().snapshot().close()
            self._history.acknowledge(moment)

        self._attempt(action)

    def _close(self) -> None:
        moment = self._history.freeze()
        fired = self.fault.fired
        engine, self._engine = self._opened(), None
        try:
            engine.close()
        except (RequestError, apsw.Error) as error:
            # SQLite's errors come out of closing only when they are raised in Python, as these are.
            self._note(error, fired)
            self._open()
            self._adopt()
            self._close()
            return
        self._history.acknowledge(moment)

    def _restart(self) -> None:
        self._close()
        self._open()
        self._read()

    def _kill(self) -> None:
        engine, self._engine = self._opened(), None
        leave(engine)
        self._open()
        self._adopt()

    def _reopen(self) -> None:
        """Close a store that failed, and open it again."""
        self._history.freeze()
        engine, self._engine = self._opened(), None
        engine.close()
        self._open()
        self._adopt()

    def _adopt(self) -> None:
        """Take over what is there: at least everything acknowledged."""
        found = read_all(self._opened())
        problem = self._history.judge(found, *self._history.marks)
        assert problem is None, problem
        self._history.adopt(found)


def root_of(setting: Setting) -> Path:
    """Make the directories and upstream files that a setting begins with."""
    for path, content in setting.first_state().items():
        real = setting.root / path
        if content is None:
            real.mkdir()
        else:
            real.write_bytes(content)
    return setting.root
