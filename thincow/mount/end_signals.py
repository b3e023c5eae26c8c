"""Signals that end a mount: caught from the moment the store is open, never lost, never fatal.

A second signal while the last commit runs changes nothing: the mount is ending already.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

import trio

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class EndSignals:
    """Catches the signals inside a `with` block and lets a task wait for one."""

    def __init__(self) -> None:
        self._received = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    async def wait(self) -> None:
        """Return when a signal has come, also one that came before the call."""
        with trio.open_signal_receiver(*_SIGNALS) as incoming:
            if self._received:
                return
            async for _number in incoming:
                return

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True
