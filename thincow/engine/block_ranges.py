"""Sets of block addresses as arrays of ranges. Pure functions of arrays, no state.

Work and memory are in proportion to the number of ranges, not of blocks.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from thincow.engine.free_runs import Run
from thincow.engine.runs import BoolArray, Int64Array

_LOWEST = np.iinfo(np.int64).min
_HIGHEST = np.iinfo(np.int64).max


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

    @classmethod
    def of(cls, runs: Iterable[Run]) -> "BlockRanges":
        """Return what is in any of some runs (start, length), which may overlap."""
        starts, lengths = np.array(list(runs), np.int64).reshape(-1, 2).T
        return cls.union(starts, lengths)

    @property
    def lengths(self) -> Int64Array:
        """The number of blocks in each range."""
        return self.ends - self.starts

    @property
    def blocks(self) -> int:
        """The number of blocks in all ranges."""
        return int(self.lengths.sum())

    def runs(self) -> list[Run]:
        """Return the ranges as (start, length)."""
        return list(zip(self.starts.tolist(), self.lengths.tolist(), strict=True))

    def plus(self, other: "BlockRanges") -> "BlockRanges":
        """Return what is in either set."""
        if not len(other.starts):
            return self
        return self.union(
            np.concatenate((self.starts, other.starts)),
            np.concatenate((self.lengths, other.lengths)),
        )

    def minus(self, other: "BlockRanges") -> "BlockRanges":
        """Return what is in this set and not in another one."""
        between = BlockRanges(
            np.concatenate(([_LOWEST], other.ends)), np.concatenate((other.starts, [_HIGHEST]))
        )
        starts, lengths, _ = between.cut(self.starts, self.lengths)
        return BlockRanges(starts, starts + lengths)

    def contains(self, addresses: Int64Array) -> BoolArray:
        """Tell which of some addresses are in the set."""
        if not len(self.starts):
            return np.zeros(len(addresses), np.bool_)
        at = self.starts.searchsorted(addresses, "right") - 1
        inside: BoolArray = (at >= 0) & (addresses < self.ends[at])
        return inside

    def absent_run(self, start: int, limit: int) -> int:
        """Return how many addresses from `start` on, at most `limit`, are not in the set."""
        next_range = int(self.ends.searchsorted(start, "right"))
        if next_range == len(self.starts):
            return limit
        return max(0, min(limit, int(self.starts[next_range]) - start))

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
