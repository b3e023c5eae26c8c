"""What `thincow flush` shows: plan and outcome as text and as JSON, a progress bar; and Ctrl-C.

Knows nothing of mounts.
"""

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any, Final

from thincow.engine.flush_outcome import FlushOutcome, FlushProgress
from thincow.engine.flush_plan import FlushPlan

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_RANGES: Final = 10


class _NoProgress:
    """Shows nothing."""

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """See FlushProgress."""


class _Bar:
    """A bar with rate and time left."""

    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._task = bars.add_task("flushing", total=None)

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """See FlushProgress."""
        if total_bytes:
            self._bars.update(self._task, total=total_bytes, completed=done_bytes)


@contextmanager
def shown_progress(on_terminal: bool) -> Iterator[FlushProgress]:
    """Show how far a flush is, on a terminal only.

    To be entered before root becomes another user, who may not be able to import anything.
    """
    if not on_terminal:
        yield _NoProgress()
        return
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Note SIGINT and SIGTERM instead of ending; the second one ends."""
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def render_plan(text: str, names: Sequence[str], as_json: bool) -> str:
    """Return a plan, given as JSON, for people or as JSON; of some devices if any are named."""
    plan = FlushPlan.from_json(text)
    if names:
        plan = plan.of_devices(names)
    return plan.as_json() if as_json else _plan_as_text(plan)


def render_outcome(outcome: FlushOutcome, as_json: bool) -> str:
    """Return what a flush did, for people or as JSON."""
    if as_json:
        status = "error" if outcome.error else "ready" if outcome.left_bytes else "clean"
        sums = {
            "status": status,
            "cancelled": outcome.is_cancelled,
            "written_bytes": outcome.written_bytes,
            "equal_bytes": outcome.equal_bytes,
            "left_bytes": outcome.left_bytes,
        }
        return json.dumps(sums | asdict(outcome), indent=2)
    parts = [f"written: {_size(outcome.written_bytes)}"]
    if outcome.equal_bytes:
        parts.append(f"upstream already: {_size(outcome.equal_bytes)}")
    parts.append(f"left: {_size(outcome.left_bytes)}" if outcome.left_bytes else "clean")
    return ", ".join(parts)


def _plan_as_text(plan: FlushPlan) -> str:
    rows = [("device", "to write", "upstream already")]
    rows += [(d.name, _size(d.write_bytes), _size(d.equal_bytes)) for d in plan.devices]
    if len(plan.devices) > 1:
        rows.append(("together", _size(plan.write_bytes), _size(plan.equal_bytes)))
    lines = _table(rows)
    chosen = {device.name for device in plan.devices}
    for device in plan.devices:
        if device.size_bytes != device.upstream_bytes:
            grows = device.size_bytes > device.upstream_bytes
            lines.append(
                f"{device.name} {'grows' if grows else 'is cut'} from {device.upstream_bytes} to "
                f"{device.size_bytes} bytes"
            )
        lines += [
            f"{other} still shows {_size(size)} of {device.name}: flush {other} too"
            for other, size in device.shown_by.items()
            if other not in chosen
        ]
    lines.append(_cycles(plan))
    ranges = [
        (name, str(part.offset_bytes), _size(part.length_bytes))
        for name, part in plan.biggest_ranges(_RANGES)
    ]
    if ranges:
        lines += ["", *_table([("biggest ranges", "at byte", "length"), *ranges])]
    return "\n".join(lines)


def _cycles(plan: FlushPlan) -> str:
    needed = f"{_size(plan.space_bytes)} of space for the store will do, more is faster"
    if plan.cycles is None or plan.cycle_bytes is None:
        return f"cycles: not counted, so much is moved; {needed}"
    if not plan.cycles:
        return "cycles: none"
    return f"cycles: {plan.cycles} ({_size(plan.cycle_bytes)}); {needed}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _size(size_bytes: int) -> str:
    """Return a size in a unit in which it has few digits."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    power = min((size_bytes.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{size_bytes / (1 << 10 * power):.1f} {_UNITS[power]}"
