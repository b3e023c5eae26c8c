"""A set of block numbers held as runs: what may be allocated. Knows nothing of why."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

Run = tuple[int, int]
"""First block and length in blocks."""


class FreeRuns:
    """Disjoint, maximal runs of block numbers in ascending order."""

    def __init__(self) -> None:
        """Make an empty set."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.blocks = 0

    def __iter__(self) -> Iterator[Run]:
        """Go through the runs in ascending order."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield start, end - start

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._starts)

    def add(self, start: int, length: int) -> None:
        """Add blocks, none of which is in the set."""
        assert length > 0
        end = start + length
        at = bisect_left(self._starts, start)
        joins_left = at > 0 and self._ends[at - 1] == start
        joins_right = at < len(self._starts) and self._starts[at] == end
        assert at == 0 or self._ends[at - 1] <= start, "block freed twice"
        assert at == len(self._starts) or self._starts[at] >= end, "block freed twice"
        if joins_left and joins_right:
            self._ends[at - 1] = self._ends[at]
            del self._starts[at], self._ends[at]
        elif joins_left:
            self._ends[at - 1] = end
        elif joins_right:
            self._starts[at] = start
        else:
            self._starts.insert(at, start)
            self._ends.insert(at, end)
        self.blocks += length

    def take(self, count: int) -> list[Run]:
        """Remove and return up to `count` blocks, the lowest ones."""
        taken: list[Run] = []
        whole = 0
        for start, end in zip(self._starts, self._ends, strict=True):
            length = min(end - start, count)
            if length == 0:
                break
            taken.append((start, length))
            count -= length
            if start + length == end:
                whole += 1
            else:
                self._starts[whole] = start + length
        del self._starts[:whole], self._ends[:whole]
        self.blocks -= sum(length for _, length in taken)
        return taken

    def remove(self, start: int, length: int) -> int:
        """Remove whatever of a range is in the set; return how many blocks that was."""
        end = start + length
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        if low >= high:
            return 0
        before = (self._starts[low], start) if self._starts[low] < start else None
        after = (end, self._ends[high - 1]) if self._ends[high - 1] > end else None
        removed = sum(
            min(run_end, end) - max(run_start, start)
            for run_start, run_end in zip(self._starts[low:high], self._ends[low:high], strict=True)
        )
        kept = [run for run in (before, after) if run is not None]
        self._starts[low:high] = [run[0] for run in kept]
        self._ends[low:high] = [run[1] for run in kept]
        self.blocks -= removed
        return removed

    def overlap(self, start: int, length: int) -> int:
        """Return how many blocks of a range are in the set."""
        end = start + length
        low = bisect_right(self._ends, start)
        high = bisect_left(self._starts, end)
        return sum(
            min(self._ends[at], end) - max(self._starts[at], start) for at in range(low, high)
        )

    def absent_run(self, start: int, limit: int) -> int:
        """Return how many numbers from `start` on, at most `limit`, are not in the set."""
        at = bisect_right(self._ends, start)
        if at == len(self._starts):
            return limit
        return max(0, min(limit, self._starts[at] - start))

    def last_run_before(self, end: int) -> Run | None:
        """Return the run that ends at `end`, if there is one."""
        if not self._ends or self._ends[-1] != end:
            return None
        return self._starts[-1], end - self._starts[-1]
