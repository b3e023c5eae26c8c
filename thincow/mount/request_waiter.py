"""How the FUSE session waits for its next request.

pyfuse3 takes what it needs of an event loop from a module, which its own `pyfuse3.asyncio` replaces
as well. Here it gets trio with another way to wait: while requests follow each other, the thread
waits for the next one itself, for a moment, and goes through the event loop only when none comes
or after some turns. One turn of the loop costs more than a small request takes otherwise.

Invariants:
- a task gets through only when a request is there to be read at that moment, since receiving would
  block; nothing else runs between the look and the reading;
- other tasks wait no longer than `_MAX_TURNS` requests and waits, and not at all for a wait while
  a thread works for one of them.
"""

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyfuse3
import trio

_MAX_TURNS: Final = 16
_WAIT_S: Final = 0.0002
"""Longer than a client takes between two requests of a series, shorter than a disk."""
_MAX_SELECTED: Final = 1024
"""`select`, which alone can wait for so short a time, takes descriptors below this."""


class RequestWaiter:
    """Stands for `trio.lowlevel` in pyfuse3."""

    def __init__(self, is_awaited: Callable[[], bool]) -> None:
        """Wait for requests; `is_awaited` tells whether a task waits for a thread."""
        self._is_awaited = is_awaited
        # All tasks of the mount have begun before the first request is served.
        self._turns = _MAX_TURNS
        self._one_waits = trio.Lock()
        self._is_closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    def notify_closing(self, fd: int) -> None:
        """End all waiting, also of tasks that are not waiting in the event loop just now."""
        self._is_closed = True
        trio.lowlevel.notify_closing(fd)

    async def wait_readable(self, fd: int) -> None:
        """Return when a request can be read.

        Raises:
            trio.ClosedResourceError: when the session ends.
        """
        self._turns += 1
        if (
            self._turns < _MAX_TURNS
            and fd < _MAX_SELECTED
            and _is_readable(fd, 0 if self._is_awaited() else _WAIT_S)
        ):
            return
        self._turns = 0
        async with self._one_waits:
            while not self._is_closed:
                await trio.lowlevel.wait_readable(fd)
                # Another task may have taken the request that woke this one.
                if fd >= _MAX_SELECTED or _is_readable(fd, 0):
                    return
        raise trio.ClosedResourceError


class _NoLock:
    """Stands for the lock that lets one task at a time wait: `RequestWaiter` sees to that."""

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_error: object) -> None:
        pass


class _EventLoop:
    """Stands for the module trio in pyfuse3."""

    Lock = _NoLock

    def __init__(self, waiter: RequestWaiter) -> None:
        self.lowlevel = waiter

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


@contextmanager
def used_by_pyfuse3(waiter: RequestWaiter) -> Iterator[None]:
    """Let pyfuse3 wait for requests with a waiter."""
    module: Any = pyfuse3
    module.trio = _EventLoop(waiter)
    try:
        yield
    finally:
        module.trio = trio


def _is_readable(fd: int, wait_s: float) -> bool:
    return bool(select.select((fd,), (), (), wait_s)[0])
