"""Compares the stored reference counts with the references there are, exactly (invariant 6).

Pure: arrays in, runs out. Both sides are step functions over COW block numbers, kept as changes at
positions: an extent of COW blocks adds 1 at its start and takes it away at its end, a row of counts
takes its count away and gives it back. Where the sum of both is not zero, they differ. So time is
that of a sort of the changes, and memory is in proportion to extents at worst; in a store that was
written in runs the end of one is the start of the next, and most changes cancel at once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

_COMPACT_AT = 1 << 22


class StepFunction:
    """A function of block numbers that is 0 at first, and to which runs of a constant are added.

    Positions and sums must fit in 63 bits.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[IntArray, IntArray]] = []
        self._size = 0
        self._compact_at = _COMPACT_AT
        self._values: IntArray | None = None

    def add(self, first: IntArray, length: IntArray, value: IntArray) -> None:
        """Add `value[i]` to all of `first[i]` ... `first[i] + length[i] - 1`."""
        self._values = None
        positions = np.concatenate((first, first + length))
        changes = np.concatenate((value, -value))
        part = _sum_by_position(positions, changes)
        self._parts.append(part)
        self._size += part[0].size
        if self._size > self._compact_at:
            self.changes()
            self._compact_at = max(_COMPACT_AT, 2 * self._size)

    def changes(self) -> tuple[IntArray, IntArray]:
        """Return the positions where the value changes, ascending, and by how much."""
        if len(self._parts) != 1:
            empty = np.empty(0, np.int64)
            positions = np.concatenate([empty, *(part[0] for part in self._parts)])
            changes = np.concatenate([empty, *(part[1] for part in self._parts)])
            self._parts = [_sum_by_position(positions, changes)]
            self._size = self._parts[0][0].size
        return self._parts[0]

    def values_at(self, positions: IntArray) -> IntArray:
        """Return the value at each of some positions."""
        at, by = self.changes()
        if self._values is None:
            self._values = np.concatenate((np.zeros(1, np.int64), np.cumsum(by)))
        return self._values[np.searchsorted(at, positions, side="right")]


class WrongRuns(NamedTuple):
    """Runs of COW blocks whose stored count differs from the references found, both constant."""

    first_block: IntArray
    length: IntArray
    stored: IntArray
    found: IntArray


def compare(stored: StepFunction, found: StepFunction) -> WrongRuns:
    """Return the longest runs in which two functions differ while both are constant."""
    stored_at, stored_by = stored.changes()
    found_at, found_by = found.changes()
    positions = np.union1d(stored_at, found_at)
    stored_value = np.cumsum(_changes_at(positions, stored_at, stored_by))
    found_value = np.cumsum(_changes_at(positions, found_at, found_by))
    # Both are 0 from the last position on, so a run that differs always has a next position.
    wrong = np.flatnonzero(stored_value != found_value)
    length = positions[wrong + 1] - positions[wrong]
    return WrongRuns(positions[wrong], length, stored_value[wrong], found_value[wrong])


def _sum_by_position(positions: IntArray, changes: IntArray) -> tuple[IntArray, IntArray]:
    """Sort by position, sum the changes at the same one, and leave out those that cancel."""
    if positions.size == 0:
        return positions, changes
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    starts = np.flatnonzero(np.diff(positions, prepend=positions[0] - 1))
    sums = np.add.reduceat(changes[order], starts)
    kept = sums != 0
    return positions[starts][kept], sums[kept]


def _changes_at(positions: IntArray, at: IntArray, by: IntArray) -> IntArray:
    """Spread changes over a superset of their positions."""
    result = np.zeros(positions.size, np.int64)
    result[np.searchsorted(positions, at)] = by
    return result
