"""Run-length encoding of arrays of references and counts. Pure functions, no state.

A *codec* says which neighbours belong to one run and which runs take no row in the database.
Arrays are one-dimensional int64; positions are indexes into them.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from thincow.block_types import ZERO

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


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

    def default(self, first_block: int, length: int) -> Int64Array:
        """See RunCodec."""
        return np.zeros(length, np.int64)


def split(codec: RunCodec, values: Int64Array) -> Int64Array:
    """Return the positions where runs start; the first is 0."""
    if len(values) == 1:
        return np.zeros(1, np.int64)
    breaks = np.flatnonzero(~codec.continues(values))
    starts = np.empty(len(breaks) + 1, np.int64)
    starts[0] = 0
    starts[1:] = breaks
    starts[1:] += 1
    return starts


def encode(codec: RunCodec, first_block: int, values: Int64Array) -> Rows:
    """Return the rows of an array whose first value is that of `first_block`."""
    return _rows(codec, first_block, values, split(codec, values), len(values))


def row_changes(
    codec: RunCodec, first_block: int, old: Int64Array, new: Int64Array, low: int, high: int
) -> RowChanges:
    """Return what makes the rows of `old` those of `new`, which differ only in [low, high).

    Work is in proportion to the window, rows to what changed.
    """
    old_starts, new_starts = split(codec, old), split(codec, new)
    begin = _common_start_before(old_starts, new_starts, low)
    end = _common_start_after(old_starts, new_starts, high, len(old))
    was = _clip(codec, first_block, old, old_starts, begin, end)
    now = _clip(codec, first_block, new, new_starts, begin, end)
    position = np.searchsorted(was.starts, now.starts)
    kept = np.zeros(len(now.starts), np.bool_)
    inside = np.flatnonzero(position < len(was.starts))
    at = position[inside]
    kept[inside] = (
        (was.starts[at] == now.starts[inside])
        & (was.lengths[at] == now.lengths[inside])
        & (was.values[at] == now.values[inside])
    )
    removed = was.starts[~np.isin(was.starts, now.starts, assume_unique=True)]
    fresh = ~kept
    return RowChanges(removed, Rows(now.starts[fresh], now.lengths[fresh], now.values[fresh]))


def merge_numbers(numbers: Int64Array) -> list[tuple[int, int]]:
    """Return the runs (start, length) of consecutive numbers in a sorted array without repeats."""
    if not len(numbers):
        return []
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[0] - 2) != 1)
    ends = np.append(starts[1:], len(numbers))
    return list(zip(numbers[starts].tolist(), (ends - starts).tolist(), strict=True))


def _common_start_before(old_starts: Int64Array, new_starts: Int64Array, low: int) -> int:
    # Before `low` both arrays are equal, so are the starts there; `low` itself may start a run in
    # one of them only.
    at = int(np.searchsorted(old_starts, low))
    also = int(np.searchsorted(new_starts, low))
    both = (
        at < len(old_starts)
        and also < len(new_starts)
        and old_starts[at] == low
        and new_starts[also] == low
    )
    return low if both else int(old_starts[at - 1])


def _common_start_after(
    old_starts: Int64Array, new_starts: Int64Array, high: int, size: int
) -> int:
    # A start after `high` depends on two values that are equal in both arrays.
    at = int(np.searchsorted(old_starts, high))
    also = int(np.searchsorted(new_starts, high))
    old_here = at < len(old_starts) and int(old_starts[at]) == high
    new_here = also < len(new_starts) and int(new_starts[also]) == high
    if old_here and new_here:
        return high
    after = at + 1 if old_here else at
    return int(old_starts[after]) if after < len(old_starts) else size


def _clip(
    codec: RunCodec,
    first_block: int,
    values: Int64Array,
    starts: Int64Array,
    begin: int,
    end: int,
) -> Rows:
    low, high = np.searchsorted(starts, (begin, end))
    return _rows(codec, first_block, values, starts[low:high], end)


def _rows(
    codec: RunCodec, first_block: int, values: Int64Array, starts: Int64Array, end: int
) -> Rows:
    lengths = np.diff(starts, append=end)
    heads = values[starts]
    absolute = starts + first_block
    wanted = codec.needs_row(absolute, heads)
    return Rows(absolute[wanted], lengths[wanted], heads[wanted])
