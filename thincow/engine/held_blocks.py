"""Keeps COW blocks from being reused while somebody outside looks at a commit of the store.

A hold begins before the view is taken and ends after the last look at contents. Blocks that are
freed meanwhile are kept aside, unless they were handed out after the view was taken: those cannot
be in it. So a client that overwrites the same range again and again does not fill the disk.

Invariants:
- no block that is referred to in any commit between the begin of a hold and the taking of its
  view is reusable before the hold ends;
- what was kept aside becomes reusable when no hold is left.
"""

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from thincow.engine.free_runs import Run
from thincow.engine.run_sets import divide, rows_of, union


class Hold:
    """Somebody who relies on the contents of a commit; made by `HeldBlocks.begin`."""

    def __init__(self, owner: "HeldBlocks") -> None:
        self._owner = owner
        self.purpose: str | None = None
        """What the view is for; None until it is taken."""

    def taken(self, purpose: str) -> None:
        """Note that the view has been taken; blocks handed out from now on are not in it."""
        if self.purpose is None:
            self.purpose = purpose
            self._owner.forget_newer()

    def release(self) -> None:
        """End the hold; a second call does nothing."""
        self._owner.end(self)


class HeldBlocks:
    """The holds on one COW store, and the blocks that wait for their end."""

    def __init__(self, reuse: Callable[[list[Run]], None]) -> None:
        """Hand what was kept aside to `reuse` when the last hold ends."""
        self._reuse = reuse
        self._holds: list[Hold] = []
        self._kept: list[Run] = []
        self._newer = _NO_RUNS
        self._handed_out: list[Run] = []

    def __bool__(self) -> bool:
        """Tell whether there is any hold."""
        return bool(self._holds)

    @property
    def purposes(self) -> list[str]:
        """What the holds are for; those whose view was not taken yet are left out."""
        return [hold.purpose for hold in self._holds if hold.purpose is not None]

    @property
    def kept_blocks(self) -> int:
        """Number of blocks that will be reusable when the last hold ends."""
        return sum(length for _, length in self._kept)

    def begin(self) -> Hold:
        """Begin a hold."""
        hold = Hold(self)
        self._holds.append(hold)
        self.forget_newer()
        return hold

    def end(self, hold: Hold) -> None:
        """End a hold."""
        if hold in self._holds:
            self._holds.remove(hold)
        if not self._holds:
            kept, self._kept = self._kept, []
            self.forget_newer()
            self._reuse(kept)

    def end_all(self) -> None:
        """End all holds: the mount ends, and with it whatever relied on them fails."""
        for hold in list(self._holds):
            self.end(hold)

    def forget_newer(self) -> None:
        """Take any block in use for one that a view may refer to, from now on until handed out."""
        self._newer, self._handed_out = _NO_RUNS, []

    def note_allocated(self, runs: Iterable[Run]) -> None:
        """Note blocks that are handed out."""
        if self._holds and all(hold.purpose is not None for hold in self._holds):
            self._handed_out += runs

    def pass_freed(self, runs: list[Run]) -> list[Run]:
        """Return what of freed blocks may be used again now; the rest is kept aside."""
        if not self._holds or not runs:
            return runs
        self._newer = union(np.concatenate((self._newer, rows_of(self._handed_out))))
        self._handed_out = []
        kept, newer = divide(union(rows_of(runs)), self._newer)
        self._kept += kept
        return newer


_NO_RUNS: Final = np.empty((0, 2), np.int64)
