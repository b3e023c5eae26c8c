"""Sets of block addresses as arrays of ranges. Pure functions of arrays, no state.

Work and memory are in proportion to the number of ranges, not of blocks.
"""

from dataclasses import dataclass

import numpy as np

from thincow.engine.runs import Int64Array


@dataclass(frozen=True, slots=True)
class BlockRanges:
    """Disjoint ranges [start, end) in ascending order; neighbours that touch are one range."""

    starts: Int64Array
    ends: Int64Array

    @classmethod
    def union(cls, starts: Int64Array, lengths: Int64Array) -> "BlockRanges":
        """Return what is in any of some ranges, which may overlap and be in any order."""
        if not len(starts):
            return cls(starts, starts)
        order = np.argsort(starts, kind="stable")
        starts = starts[order]
        reach = np.maximum.accumulate(starts + lengths[order])
        heads = np.flatnonzero(np.concatenate(([True], starts[1:] > reach[:-1])))
        return cls(starts[heads], reach[np.append(heads[1:], len(starts)) - 1])

    @property
    def lengths(self) -> Int64Array:
        """The number of blocks in each range."""
        return self.ends - self.starts

    @property
    def blocks(self) -> int:
        """The number of blocks in all ranges."""
        return int(self.lengths.sum())

    def overlap(self, starts: Int64Array, lengths: Int64Array) -> Int64Array:
        """Return for each of some ranges how many of its blocks are in the set."""
        return self._below(starts + lengths) - self._below(starts)

    def cut(
        self, starts: Int64Array, lengths: Int64Array
    ) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Cut ranges to what of them is in the set.

        Returns:
            Starts and lengths of the parts, and from which range (its index) each of them is.
        """
        low = np.searchsorted(self.ends, starts, side="right")
        high = np.searchsorted(self.starts, starts + lengths, side="left")
        counts = np.maximum(high - low, 0)
        origin = np.repeat(np.arange(len(starts)), counts)
        first_part = np.cumsum(counts) - counts
        inside = np.repeat(low - first_part, counts) + np.arange(len(origin))
        begin = np.maximum(starts[origin], self.starts[inside])
        end = np.minimum((starts + lengths)[origin], self.ends[inside])
        return begin, end - begin, origin

    def _below(self, positions: Int64Array) -> Int64Array:
        """Return how many blocks of the set are below each of some positions."""
        if not len(self.starts):
            return np.zeros(len(positions), np.int64)
        before = np.cumsum(self.lengths) - self.lengths
        at = np.searchsorted(self.starts, positions, side="right") - 1
        inside = np.clip(positions - self.starts[at], 0, self.lengths[at])
        result: Int64Array = np.where(at < 0, 0, before[at] + inside)
        return result
