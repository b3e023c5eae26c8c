"""A set of block numbers held as runs: what may be allocated. Knows nothing of why.

There may be millions of runs, and many are added by each commit. So most are in sorted arrays;
what was added since is in short sorted lists, which are merged into the arrays when they get long
or something is asked that concerns both.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from thincow.engine.runs import Int64Array

Run = tuple[int, int]
"""First block and length in blocks."""

_MAX_RECENT: Final = 4096
_MANY: Final = 64


class FreeRuns:
    """Disjoint runs of block numbers in ascending order; maximal wherever they are shown."""

    def __init__(self) -> None:
        """Make an empty set."""
        self._starts = self._ends = np.empty(0, np.int64)
        self._head = 0
        self._recent_starts: list[int] = []
        self._recent_ends: list[int] = []
        self.blocks = 0

    def __iter__(self) -> Iterator[Run]:
        """Go through the runs in ascending order."""
        yield from self.lowest(len(self))

    def __len__(self) -> int:
        """Return the number of runs."""
        self._merge()
        return len(self._starts) - self._head

    def add(self, start: int, length: int) -> None:
        """Add blocks, none of which is in the set."""
        assert length > 0
        starts, ends = self._recent_starts, self._recent_ends
        end = start + length
        at = bisect_left(starts, start)
        assert at == 0 or ends[at - 1] <= start, "block freed twice"
        assert at == len(starts) or starts[at] >= end, "block freed twice"
        assert self._is_disjoint(start, end), "block freed twice"
        if at and ends[at - 1] == start:
            ends[at - 1] = end
        else:
            starts.insert(at, start)
            ends.insert(at, end)
        self.blocks += length
        if len(starts) > _MAX_RECENT:
            self._merge()

    def add_all(self, runs: Iterable[Run]) -> None:
        """Add many runs, none of whose blocks is in the set; in any order."""
        listed = list(runs)
        if len(listed) < _MANY:
            for start, length in listed:
                self.add(start, length)
            return
        added = np.array(listed, np.int64)
        self._merge(added)
        self.blocks += int(added[:, 1].sum())

    def take(self, count: int) -> list[Run]:
        """Remove and return up to `count` blocks, the lowest ones."""
        taken: list[Run] = []
        count = min(count, self.blocks)
        self.blocks -= count
        while count:
            start, end, is_recent = self._first()
            length = min(end - start, count)
            count -= length
            taken.append((start, length))
            if not is_recent:
                if start + length < end:
                    self._starts[self._head] = start + length
                else:
                    self._head += 1
            elif start + length < end:
                self._recent_starts[0] = start + length
            else:
                del self._recent_starts[0], self._recent_ends[0]
        return taken

    def lowest(self, max_runs: int) -> list[Run]:
        """Return up to `max_runs` runs, the lowest ones, which stay in the set."""
        self._merge()
        starts = self._starts[self._head : self._head + max_runs]
        ends = self._ends[self._head : self._head + max_runs]
        return list(zip(starts.tolist(), (ends - starts).tolist(), strict=True))

    def remove(self, start: int, length: int) -> int:
        """Remove whatever of a range is in the set; return how many blocks that was."""
        end = start + length
        low, high = self._meeting(start, end)
        if low >= high:
            return 0
        starts, ends = self._starts[low:high], self._ends[low:high]
        kept = [run for run in ((int(starts[0]), start), (end, int(ends[-1]))) if run[0] < run[1]]
        removed = int((np.minimum(ends, end) - np.maximum(starts, start)).sum())
        between = np.array(kept, np.int64).reshape(-1, 2)
        head = self._head
        self._starts = np.concatenate((self._starts[head:low], between[:, 0], self._starts[high:]))
        self._ends = np.concatenate((self._ends[head:low], between[:, 1], self._ends[high:]))
        self._head = 0
        self.blocks -= removed
        return removed

    def overlap(self, start: int, length: int) -> int:
        """Return how many blocks of a range are in the set."""
        end = start + length
        low, high = self._meeting(start, end)
        starts, ends = self._starts[low:high], self._ends[low:high]
        return int((np.minimum(ends, end) - np.maximum(starts, start)).sum())

    def absent_run(self, start: int, limit: int) -> int:
        """Return how many numbers from `start` on, at most `limit`, are not in the set."""
        if not self.blocks:
            return limit
        low, high = self._meeting(start, start + limit)
        return max(0, int(self._starts[low]) - start) if low < high else limit

    def last_run_before(self, end: int) -> Run | None:
        """Return the run that ends at `end`, if there is one."""
        if not self.blocks:
            return None
        self._merge()
        if self._ends[-1] != end:
            return None
        start = int(self._starts[-1])
        return start, end - start

    def _first(self) -> tuple[int, int, bool]:
        """Return start and end of the lowest run, and whether it is a recent one."""
        is_sorted = self._head < len(self._starts)
        if self._recent_starts and not (
            is_sorted and self._starts[self._head] < self._recent_starts[0]
        ):
            return self._recent_starts[0], self._recent_ends[0], True
        return int(self._starts[self._head]), int(self._ends[self._head]), False

    def _meeting(self, start: int, end: int) -> tuple[int, int]:
        """Return the range of indexes of the runs that meet a range of blocks."""
        self._merge()
        low = max(self._head, int(self._ends.searchsorted(start, "right")))
        return low, int(self._starts.searchsorted(end, "left"))

    def _is_disjoint(self, start: int, end: int) -> bool:
        if self._head == len(self._starts):
            return True
        low = max(self._head, int(self._ends.searchsorted(start, "right")))
        return low == len(self._starts) or bool(self._starts[low] >= end)

    def _merge(self, runs: Int64Array | None = None) -> None:
        """Put recent runs, and others given as rows of start and length, into the arrays."""
        if not self._recent_starts and runs is None:
            return
        starts = [self._starts[self._head :], np.array(self._recent_starts, np.int64)]
        ends = [self._ends[self._head :], np.array(self._recent_ends, np.int64)]
        if runs is not None:
            starts.append(runs[:, 0])
            ends.append(runs[:, 0] + runs[:, 1])
        all_starts, all_ends = np.concatenate(starts), np.concatenate(ends)
        order = all_starts.argsort(kind="stable")
        all_starts, all_ends = all_starts[order], all_ends[order]
        assert (all_starts[1:] >= all_ends[:-1]).all(), "block freed twice"
        apart = all_starts[1:] != all_ends[:-1]
        self._starts = all_starts[np.concatenate(([True], apart))[: len(order)]]
        self._ends = all_ends[np.concatenate((apart, [True]))[-len(order) :]]
        self._head = 0
        self._recent_starts, self._recent_ends = [], []
