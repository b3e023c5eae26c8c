"""The free blocks of `cowdata`: those that still hold space of the filesystem, and holes.

Knows nothing of why they are free. One punch at a time makes holes of some of them; until it has
ended these are handed out to nobody.
"""

from collections.abc import Iterable
from typing import Final

from thincow.engine.free_runs import FreeRuns, Run
from thincow.engine.hole_punch import HolePunch
from thincow.engine.run_sets import rows_of, union
from thincow.store.cow_file import CowFile

_PUNCH_GRAIN_BYTES: Final = 4096
"""Filesystems give back whole blocks of this size; smaller holes are no use."""


class FreeBlocks:
    """A set of block numbers."""

    def __init__(self, file: CowFile, block_size: int) -> None:
        """Make an empty set; `block_size` in bytes."""
        self._file = file
        self._block_size = block_size
        self._holding = FreeRuns()
        self._empty = FreeRuns()
        self._punch: HolePunch | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks, those that are being punched included."""
        punched = 0 if self._punch is None else self._punch.blocks
        return self._holding.blocks + self._empty.blocks + punched

    @property
    def holding_blocks(self) -> int:
        """Number of blocks whose space the filesystem has not got back."""
        return self._holding.blocks

    def add(self, start: int, length: int, *, holding: bool = True) -> None:
        """Add blocks; `holding`: the filesystem may not have got their space back."""
        (self._holding if holding else self._empty).add(start, length)

    def add_all(self, runs: Iterable[Run], *, holding: bool = True) -> None:
        """Add many runs."""
        (self._holding if holding else self._empty).add_all(runs)

    def take(self, count: int) -> list[Run]:
        """Remove and return up to `count` blocks, those that hold space first."""
        runs = self._holding.take(count)
        missing = count - sum(length for _, length in runs)
        if missing:
            runs += self._empty.take(missing)
        return runs

    def take_tail(self, end: int) -> int:
        """Remove the blocks just before `end`; return where they begin."""
        while True:
            last = self._holding.last_run_before(end) or self._empty.last_run_before(end)
            if last is None:
                return end
            end = last[0]
            self._holding.remove(*last)
            self._empty.remove(*last)

    @property
    def is_punching(self) -> bool:
        """Whether a punch has begun and not ended."""
        return self._punch is not None

    def begin_punch(self, max_runs: int | None, end_block: int) -> HolePunch:
        """Return what makes holes of up to `max_runs` runs (None: all) of a file of `end_block`."""
        assert self._punch is None
        grain = max(1, _PUNCH_GRAIN_BYTES // self._block_size)
        runs = self._holding.lowest(len(self._holding) if max_runs is None else max_runs)
        holes = []
        for start, length in runs:
            begin = start - start % grain
            end = -(-(start + length) // grain) * grain
            if not self._has_all(begin, min(begin + grain, end_block)):
                begin += grain
            if end > begin and not self._has_all(end - grain, min(end, end_block)):
                end -= grain
            # What is behind the end may be in use before the punch has run.
            if min(end, end_block) > begin:
                holes.append((begin, min(end, end_block) - begin))
        self._holding.take(sum(length for _, length in runs))
        if grain > 1:
            # What else is free in the same blocks of the filesystem.
            for hole in holes:
                self._holding.remove(*hole)
                self._empty.remove(*hole)
        kept = union(rows_of([*runs, *holes])).tolist()
        size = self._block_size
        self._punch = HolePunch(
            self._file,
            [(begin * size, length * size) for begin, length in holes],
            [(start, end - start) for start, end in kept],
        )
        return self._punch

    def end_punch(self, punch: HolePunch) -> bool:
        """Take back the blocks of a punch that was run; tell whether they are holes now.

        Does nothing when that was done already.
        """
        if punch is not self._punch:
            return False
        self._punch = None
        self.add_all(punch.runs, holding=punch.error is not None)
        return punch.error is None

    def finish_punch(self) -> None:
        """Wait for the punch under way, if there is one, and take its blocks back."""
        if self._punch is not None:
            self._punch.run()
            self.end_punch(self._punch)

    def _has_all(self, start: int, end: int) -> bool:
        length = end - start
        return self._holding.overlap(start, length) + self._empty.overlap(start, length) == length
