"""Who waits for which commit, and what they hear when it fails."""

import errno
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from thincow.errors import CommitError, NoSpaceError, StoreFailedError
from thincow.mount.commit_scheduler import CommitScheduler

LONG_S = 3600.0


@dataclass
class FakeCommit:
    content: list[int]
    is_small: bool
    must_run_inline: bool = False
    seconds: float = 0.0
    may_run: threading.Event = field(default_factory=threading.Event)
    thread: int = 0
    busy_shell: bool = False
    is_busy: bool = False

    def run(self, *, patient: bool = True) -> None:
        assert self.may_run.wait(10)
        self.thread = threading.get_ident()
        self.is_busy = self.busy_shell and not patient


class FakeEngine:
    """Keeps numbers: `written` in memory, `durable` on its disk."""

    def __init__(self) -> None:
        self.read_only = self.failed = self.must_wait = self.commit_due = False
        self.small = True
        self.is_blocked = False
        self.is_shell_busy = False
        self.commit_takes_s = 0.0
        self.errors: list[Exception] = []
        self.written: list[int] = []
        self.durable: list[int] = []
        self.commits: list[FakeCommit] = []
        self.running: FakeCommit | None = None
        self.awaited: list[bool] = []
        self.space_return = None

    @property
    def is_dirty(self) -> bool:
        return bool(self.written) or self.running is not None

    def freeze(self, *, is_awaited: bool) -> FakeCommit | None:
        assert self.running is None
        self.awaited.append(is_awaited)
        if not self.written:
            return None
        self.running = FakeCommit(self.written, self.small, seconds=self.commit_takes_s)
        self.running.busy_shell = self.is_shell_busy
        self.written = []
        self.commits.append(self.running)
        if not self.is_blocked:
            self.running.may_run.set()
        return self.running

    def finish(self, commit: FakeCommit) -> None:
        assert commit is self.running
        self.running = None
        if self.errors:
            self.written = commit.content + self.written
            raise self.errors.pop(0)
        self.durable += commit.content


def scheduled(engine: FakeEngine, interval_s: float = LONG_S) -> CommitScheduler:
    return CommitScheduler(engine, interval_s)  # type: ignore[arg-type] # a stand-in


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(20):
            await test()

    trio.run(limited)


@pytest.mark.parametrize("small", [True, False])
def test_sync_returns_when_everything_is_durable(small: bool) -> None:
    engine = FakeEngine()
    engine.small = small

    async def test() -> None:
        scheduler = scheduled(engine)
        engine.written.append(1)
        await scheduler.sync()
        assert engine.durable == [1]
        assert engine.awaited == [True]
        await scheduler.sync()
        assert len(engine.commits) == 1

    run(test)
    assert (engine.commits[0].thread == threading.get_ident()) == small


def test_sync_joins_a_commit_that_begins_after_it() -> None:
    engine = FakeEngine()
    engine.small = False
    engine.is_blocked = True

    async def test() -> None:
        scheduler = scheduled(engine)
        engine.written.append(1)
        served: list[int] = []

        async def wait(number: int) -> None:
            await scheduler.sync()
            served.append(number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, 0)
            await trio.testing.wait_all_tasks_blocked(0.05)
            engine.written.append(2)
            for number in (1, 2, 3):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert served == []
            engine.commits[0].may_run.set()
            while len(engine.commits) < 2:
                await trio.sleep(0.001)
            assert served == [0]
            engine.commits[1].may_run.set()
        assert sorted(served) == [0, 1, 2, 3]
        assert engine.durable == [1, 2]
        assert len(engine.commits) == 2

    run(test)


def test_sync_waits_for_a_running_commit_that_holds_its_writes() -> None:
    engine = FakeEngine()
    engine.small = False
    engine.is_blocked = True

    async def test() -> None:
        scheduler = scheduled(engine)
        engine.written.append(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert engine.written == []
            with trio.move_on_after(0.05):
                await scheduler.sync()
                raise AssertionError("returned before it was durable")
            engine.commits[0].may_run.set()
        assert engine.durable == [1]

    run(test)


def test_failed_commit_fails_all_its_waiters_and_is_tried_again() -> None:
    engine = FakeEngine()
    engine.errors.append(CommitError("full", 28))

    async def test() -> None:
        scheduler = scheduled(engine)
        engine.written.append(1)
        heard: list[str] = []

        async def wait() -> None:
            try:
                await scheduler.sync()
            except CommitError as error:
                heard.append(str(error))

        async with trio.open_nursery() as nursery, scheduler.no_commit_running():
            for _ in range(3):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        assert heard == ["full"] * 3
        assert len(engine.commits) == 1
        await scheduler.sync()
        assert engine.durable == [1]

    run(test)


def test_surprise_in_a_commit_is_no_success_for_others() -> None:
    engine = FakeEngine()
    engine.small = False
    engine.is_blocked = True

    async def test() -> None:
        scheduler = scheduled(engine)
        outcomes: list[type[Exception] | None] = []

        async def wait() -> None:
            try:
                await scheduler.sync()
                outcomes.append(None)
            except (ZeroDivisionError, StoreFailedError) as error:
                outcomes.append(type(error))

        async with trio.open_nursery() as nursery:
            engine.written.append(1)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.05)
            engine.written.append(2)
            for _ in range(2):
                nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked(0.05)
            engine.commits[0].may_run.set()
            while len(engine.commits) < 2:
                await trio.sleep(0.001)
            engine.errors.append(ZeroDivisionError())
            engine.commits[1].may_run.set()
        assert outcomes == [None, ZeroDivisionError, StoreFailedError]

    run(test)


def test_failed_store_fails_every_sync() -> None:
    engine = FakeEngine()
    engine.failed = True

    async def test() -> None:
        with pytest.raises(StoreFailedError):
            await scheduled(engine).sync()

    run(test)


def test_read_only_store_has_nothing_to_sync() -> None:
    engine = FakeEngine()
    engine.read_only = True

    async def test() -> None:
        await scheduled(engine).sync()

    run(test)
    assert engine.commits == []


def test_timer_commits_what_nobody_asked_for_and_tries_again() -> None:
    engine = FakeEngine()
    engine.errors.append(NoSpaceError("full"))

    async def test() -> None:
        scheduler = scheduled(engine, interval_s=0.02)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.run)
            engine.written.append(1)
            while engine.durable != [1]:
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        assert len(engine.commits) == 2

    run(test)


def test_log_tells_when_commits_begin_to_fail_and_to_succeed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = FakeEngine()
    engine.small = False

    async def test() -> None:
        scheduler = scheduled(engine, interval_s=0.02)
        engine.errors += [CommitError("full", errno.ENOSPC) for _ in range(3)]
        engine.written.append(1)
        with pytest.raises(CommitError):
            await scheduler.sync()  # whoever asked for it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.run)
            while engine.durable != [1]:
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
        engine.written.append(2)
        await scheduler.sync()

    run(test)
    assert caplog.messages == ["commit failed: full", "commits succeed again"]


def test_log_tells_nothing_of_commits_that_succeed(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine()
    engine.small = False

    async def test() -> None:
        engine.is_blocked = True
        scheduler = scheduled(engine, interval_s=0.02)
        async with trio.open_nursery() as nursery:
            engine.written.append(1)
            nursery.start_soon(scheduler.sync)
            nursery.start_soon(scheduler.run)
            while not engine.commits:
                await trio.sleep(0.005)
            await trio.sleep(0.05)  # the timer asks while this commit runs
            engine.commits[0].may_run.set()
            while engine.durable != [1]:
                await trio.sleep(0.005)
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()

    run(test)
    assert caplog.messages == []


def test_write_that_makes_a_commit_due_starts_it() -> None:
    engine = FakeEngine()

    async def test() -> None:
        scheduler = scheduled(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.run)
            await trio.testing.wait_all_tasks_blocked()
            engine.written.append(1)
            scheduler.note_change()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert engine.durable == []
            engine.commit_due = True
            scheduler.note_change()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert engine.durable == [1]
            nursery.cancel_scope.cancel()

    run(test)


def test_commits_that_take_a_part_each_follow_each_other() -> None:
    engine = FakeEngine()
    left = [3, 2]

    def finish(commit: FakeCommit) -> None:
        FakeEngine.finish(engine, commit)
        engine.written = left[:1]
        del left[:1]
        engine.commit_due = bool(engine.written)

    engine.finish = finish  # type: ignore[method-assign]

    async def test() -> None:
        scheduler = scheduled(engine)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.run)
            await trio.testing.wait_all_tasks_blocked()
            engine.written, engine.commit_due = [4], True
            scheduler.note_change()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert engine.durable == [4, 3, 2]
            nursery.cancel_scope.cancel()

    run(test)


def test_writer_waits_for_room_until_a_commit_has_made_some() -> None:
    engine = FakeEngine()
    engine.written.append(1)
    engine.must_wait = True

    async def test() -> None:
        scheduler = scheduled(engine)
        async with trio.open_nursery() as nursery, scheduler.no_commit_running():
            nursery.start_soon(scheduler.wait_for_room)
            await trio.testing.wait_all_tasks_blocked()
            assert engine.durable == []
            engine.must_wait = False
        assert engine.durable == [1]

    run(test)


def test_commit_is_finished_although_its_waiter_is_cancelled() -> None:
    engine = FakeEngine()
    engine.small = False
    engine.is_blocked = True

    async def test() -> None:
        scheduler = scheduled(engine)
        engine.written.append(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scheduler.sync)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
            engine.commits[0].may_run.set()
        assert engine.durable == [1]
        assert engine.running is None

    run(test)


def test_small_commits_leave_the_event_loop_while_the_disk_is_slow() -> None:
    engine = FakeEngine()

    async def test() -> None:
        scheduler = scheduled(engine)
        for seconds in (0.001, 1.0, 0.001, 0.001):
            engine.commit_takes_s = seconds
            engine.written.append(1)
            await scheduler.sync()
        here = threading.get_ident()
        assert [commit.thread == here for commit in engine.commits] == [True, True, False, True]

    run(test)


def test_small_commit_does_not_wait_in_the_event_loop_for_a_shell_that_writes() -> None:
    engine = FakeEngine()
    engine.is_shell_busy = True
    scheduler = scheduled(engine)

    async def test() -> None:
        engine.written.append(1)
        await scheduler.sync()
        assert engine.durable == [1]
        assert engine.commits[0].thread != threading.get_ident()

    run(test)
