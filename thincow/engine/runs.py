"""Run-length encoding of arrays of references and counts. Pure functions, no state.

A *codec* says which neighbours belong to one run and which runs take no row in the database.
Arrays are one-dimensional int64; positions are indexes into them.
"""

from itertools import pairwise
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from thincow.block_types import ZERO

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_FEW: Final = 4
"""Changes of so few neighbours are worked out one by one."""

_NEAR: Final = 3
"""So many neighbours are looked at one by one before arrays are."""

_FIRST_STEP: Final = 64
"""Values looked at first when the end of a run is searched."""


class Rows(NamedTuple):
    """Runs as parallel arrays: first block (absolute), length, value of the first block."""

    starts: Int64Array
    lengths: Int64Array
    values: Int64Array


class RowChanges(NamedTuple):
    """What makes the rows of an old array those of a new one."""

    removed: Int64Array
    upserted: Rows


class RunCodec(Protocol):
    """How values form runs."""

    def continues(self, values: Int64Array) -> BoolArray:
        """Tell for each i whether value i+1 continues the run of value i; one shorter."""

    def needs_row(self, starts: Int64Array, values: Int64Array) -> BoolArray:
        """Tell for each run whether it takes a row."""

    def joins(self, left: int, right: int) -> bool:
        """Tell whether a value continues the run of the one before it."""

    def is_default(self, start: int, value: int) -> bool:
        """Tell whether a run takes no row."""

    def default(self, first_block: int, length: int) -> Int64Array:
        """Return the values of blocks that no row covers."""


class ReferenceCodec:
    """References: consecutive, or all ZERO; identity takes no row."""

    def continues(self, values: Int64Array) -> BoolArray:
        """See RunCodec."""
        left, right = values[:-1], values[1:]
        result: BoolArray = (right - left == 1) | ((left == ZERO) & (right == ZERO))
        return result

    def needs_row(self, starts: Int64Array, values: Int64Array) -> BoolArray:
        """See RunCodec."""
        result: BoolArray = starts != values
        return result

    def joins(self, left: int, right: int) -> bool:
        """See RunCodec."""
        return right - left == 1 or left == right == ZERO

    def is_default(self, start: int, value: int) -> bool:
        """See RunCodec."""
        return start == value

    def default(self, first_block: int, length: int) -> Int64Array:
        """See RunCodec."""
        return np.arange(first_block, first_block + length, dtype=np.int64)


class CountCodec:
    """Reference counts: equal ones form runs; zero takes no row."""

    def continues(self, values: Int64Array) -> BoolArray:
        """See RunCodec."""
        result: BoolArray = values[1:] == values[:-1]
        return result

    def needs_row(self, starts: Int64Array, values: Int64Array) -> BoolArray:
        """See RunCodec."""
        result: BoolArray = values != 0
        return result

    def joins(self, left: int, right: int) -> bool:
        """See RunCodec."""
        return left == right

    def is_default(self, _start: int, value: int) -> bool:
        """See RunCodec."""
        return value == 0

    def default(self, first_block: int, length: int) -> Int64Array:
        """See RunCodec."""
        return np.zeros(length, np.int64)


def split(codec: RunCodec, values: Int64Array) -> Int64Array:
    """Return the positions where runs start; the first is 0."""
    if len(values) == 1:
        return np.zeros(1, np.int64)
    breaks = (~codec.continues(values)).nonzero()[0]
    starts = np.empty(len(breaks) + 1, np.int64)
    starts[0] = 0
    starts[1:] = breaks
    starts[1:] += 1
    return starts


def encode(codec: RunCodec, first_block: int, values: Int64Array) -> Rows:
    """Return the rows of an array whose first value is that of `first_block`."""
    starts = split(codec, values)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = len(values) - starts[-1]
    heads = values[starts]
    absolute = starts + first_block
    return _select(Rows(absolute, lengths, heads), codec.needs_row(absolute, heads))


def row_changes(
    codec: RunCodec, first_block: int, old: Int64Array, new: Int64Array, low: int, high: int
) -> RowChanges:
    """Return what makes the rows of `old` those of `new`, which differ only in [low, high).

    Looks only at the runs that meet or touch what changed.
    """
    begin = _run_start(codec, first_block, new, low)
    end = _run_end(codec, first_block, new, high)
    if high - low <= _FEW:
        was_few = _few_rows(codec, first_block, old, (begin, low, high, end))
        now_few = _few_rows(codec, first_block, new, (begin, low, high, end))
        starts = {row[0] for row in now_few}
        gone = [row[0] for row in was_few if row[0] not in starts]
        fresh = np.array([row for row in now_few if row not in was_few], np.int64).reshape(-1, 3).T
        return RowChanges(np.array(gone, np.int64), Rows(*fresh))
    was = encode(codec, first_block + begin, old[begin:end])
    now = encode(codec, first_block + begin, new[begin:end])
    if not len(was.starts):
        return RowChanges(was.starts, now)
    nearest = was.starts.searchsorted(now.starts)
    np.minimum(nearest, len(was.starts) - 1, out=nearest)
    replaces = was.starts[nearest] == now.starts
    is_removed = np.ones(len(was.starts), np.bool_)
    is_removed[nearest[replaces]] = False
    kept = replaces & (was.lengths[nearest] == now.lengths) & (was.values[nearest] == now.values)
    return RowChanges(was.starts[is_removed], _select(now, ~kept))


def distinct(numbers: Int64Array) -> Int64Array:
    """Return each of some numbers once, ascending: as `np.unique`, which takes 20 times as long."""
    numbers = np.sort(numbers)
    is_first = np.ones(len(numbers), np.bool_)
    np.not_equal(numbers[1:], numbers[:-1], out=is_first[1:])
    return numbers[is_first]


def merge_numbers(numbers: Int64Array) -> list[tuple[int, int]]:
    """Return the runs (start, length) of consecutive numbers in a sorted array without repeats."""
    if not len(numbers):
        return []
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
    ends = np.append(starts[1:], len(numbers))
    return list(zip(numbers[starts].tolist(), (ends - starts).tolist(), strict=True))


def _run_start(codec: RunCodec, first_block: int, values: Int64Array, position: int) -> int:
    """Return where the run starts that the value before `position` belongs to; 0 at the begin.

    `position` when that run takes no row: nothing that is not such a run too joins it.
    """
    if position == 0:
        return 0
    at, value = position - 1, values.item(position - 1)
    if codec.is_default(first_block + at, value):
        return position
    for _ in range(_NEAR):
        if at == 0:
            return 0
        before = values.item(at - 1)
        if not codec.joins(before, value):
            return at
        at, value = at - 1, before
    end, step = at + 1, _FIRST_STEP
    while end > 1:
        start = max(0, end - step)
        breaks = (~codec.continues(values[start:end])).nonzero()[0]
        if len(breaks):
            return start + int(breaks[-1]) + 1
        end, step = start + 1, step * 8
    return 0


def _run_end(codec: RunCodec, first_block: int, values: Int64Array, position: int) -> int:
    """Return where the run ends that the value at `position` belongs to; as `_run_start`."""
    if position == len(values):
        return position
    at, value = position, values.item(position)
    if codec.is_default(first_block + at, value):
        return position
    for _ in range(_NEAR):
        if at + 1 == len(values):
            return at + 1
        after = values.item(at + 1)
        if not codec.joins(value, after):
            return at + 1
        at, value = at + 1, after
    start, step = at, _FIRST_STEP
    while start < len(values) - 1:
        breaks = (~codec.continues(values[start : start + step])).nonzero()[0]
        if len(breaks):
            return start + int(breaks[0]) + 1
        start, step = start + step - 1, step * 8
    return len(values)


def _few_rows(
    codec: RunCodec, first_block: int, values: Int64Array, span: tuple[int, int, int, int]
) -> list[tuple[int, int, int]]:
    """Return the rows of a span (begin, low, high, end) with runs that start only in [low, high].

    Arrays would cost more than that few values are worth.
    """
    begin, low, high, end = span
    first = max(low - 1, begin)
    cells = values[first : min(high + 1, end)].tolist()
    starts = [begin]
    starts += [
        first + at + 1
        for at, (left, right) in enumerate(pairwise(cells))
        if not codec.joins(left, right)
    ]
    rows = []
    for start, stop in zip(starts, [*starts[1:], end], strict=True):
        value = int(values[start])
        if not codec.is_default(first_block + start, value):
            rows.append((first_block + start, stop - start, value))
    return rows


def _select(rows: Rows, wanted: BoolArray) -> Rows:
    if np.count_nonzero(wanted) == len(wanted):
        return rows
    return Rows(rows.starts[wanted], rows.lengths[wanted], rows.values[wanted])
