"""Keeps COW blocks from being reused while their contents are being read.

A pin is a run of blocks; pins may overlap. What is freed while it is pinned is kept aside until
the last pin of it goes.
"""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from thincow.engine.free_runs import Run
from thincow.engine.run_sets import divide, overlaps, rows_of, union
from thincow.engine.runs import Int64Array


class PinnedBlocks:
    """The pins on one COW store, and the freed blocks that wait for their end."""

    def __init__(self) -> None:
        """Begin without pins."""
        self._pins: Counter[Run] = Counter()
        self._rows: Int64Array | None = None
        self._waiting: list[Run] = []

    def __bool__(self) -> bool:
        """Tell whether there is any pin."""
        return bool(self._pins)

    def pin(self, runs: Iterable[Run]) -> None:
        """Add pins."""
        self._pins.update(runs)
        self._rows = None

    def unpin(self, runs: Iterable[Run]) -> list[Run]:
        """Take back pins; return what may be reused now."""
        for run in runs:
            assert self._pins[run] > 0, "no such pin"
            self._pins[run] -= 1
            if not self._pins[run]:
                del self._pins[run]
        self._rows = None
        waiting, self._waiting = self._waiting, []
        return self.pass_freed(waiting)

    def pass_freed(self, runs: list[Run]) -> list[Run]:
        """Return what of freed blocks may be reused now; the rest is kept aside."""
        if not self._pins or not runs:
            return runs
        if self._rows is None:
            self._rows = union(rows_of(self._pins))
        if len(runs) == 1 and not overlaps(self._rows, runs[0][0], sum(runs[0])):
            return runs
        rows = rows_of(runs)
        free, pinned = divide(rows[np.argsort(rows[:, 0])], self._rows)
        self._waiting += pinned
        return free
