"""Waiting for requests: a pipe stands for the session, a byte in it for a request."""

import os
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing

from thincow.mount import request_waiter
from thincow.mount.request_waiter import RequestWaiter


@pytest.fixture(params=[0, 16], ids=["through the loop", "in the thread"])
def pipe(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    monkeypatch.setattr(request_waiter, "_MAX_TURNS", request.param)
    ends = list(os.pipe())
    yield ends
    for end in ends:
        os.close(end)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with trio.fail_after(10):
            await test()

    trio.run(limited)


def test_request_that_is_there_is_served_at_once(pipe: list[int]) -> None:
    async def test() -> None:
        os.write(pipe[1], b"1")
        await RequestWaiter(lambda: False).wait_readable(pipe[0])
        assert os.read(pipe[0], 1) == b"1"

    run(test)


def test_tasks_that_were_started_before_begin_before_the_first_request(pipe: list[int]) -> None:
    async def test() -> None:
        begun: list[int] = []

        async def other(number: int) -> None:
            begun.append(number)

        async def serve() -> None:
            await waiter.wait_readable(pipe[0])
            assert sorted(begun) == [0, 1, 2, 3]

        os.write(pipe[1], b"1")
        for _ in range(20):  # trio runs tasks in no certain order
            begun.clear()
            waiter = RequestWaiter(lambda: False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                for number in range(4):
                    nursery.start_soon(other, number)

    run(test)


def test_each_request_is_taken_by_one_task(pipe: list[int]) -> None:
    waiter = RequestWaiter(lambda: False)
    taken: list[int] = []

    async def serve(task: int) -> None:
        while True:
            await waiter.wait_readable(pipe[0])
            # Would hang if another task had taken it.
            assert os.read(pipe[0], 1) == b"x"
            taken.append(task)
            if len(taken) % 3 == 0:
                await trio.sleep(0.001)

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            for task in range(4):
                nursery.start_soon(serve, task)
            for number in range(1, 101):
                os.write(pipe[1], b"x")
                while len(taken) < number:
                    await trio.sleep(0.0005)
            nursery.cancel_scope.cancel()

    run(test)


def test_others_have_their_turn_while_requests_never_end(pipe: list[int]) -> None:
    waiter = RequestWaiter(lambda: False)
    turns = 0

    async def serve() -> None:
        os.write(pipe[1], b"x")
        while turns < 10:
            await waiter.wait_readable(pipe[0])  # there is always one

    async def other() -> None:
        nonlocal turns
        while turns < 10:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(other)

    run(test)


def test_the_end_reaches_all_tasks_wherever_they_are(pipe: list[int]) -> None:
    waiter = RequestWaiter(lambda: False)
    ended = 0

    async def serve() -> None:
        nonlocal ended
        with pytest.raises(trio.ClosedResourceError):
            await waiter.wait_readable(pipe[0])
        ended += 1

    async def test() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(serve)
            await trio.testing.wait_all_tasks_blocked(0.01)
            waiter.notify_closing(pipe[0])
        assert ended == 3
        await serve()  # one that was busy meanwhile

    run(test)
