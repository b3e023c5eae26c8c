"""The plan of a write: what becomes of each of its blocks. A value without behaviour."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

NEW: Final = -2
"""Stands in a plan for a block that has to be stored."""

REPEAT: Final = -3
"""The value -3 - i in a plan stands for the same content as block i of the request."""


@dataclass(slots=True)
class Plan:
    """What to do with the blocks of a write, as runs.

    `hashes` are those of all blocks, or none where the plan could be made without them.
    `runs` are (reference, length in blocks), where a reference may also be NEW or a repeat.
    `earlier` are runs just before the write that can share a place now. The counts are for
    statistics, in blocks.
    """

    hashes: Sequence[int] = ()
    runs: list[tuple[int, int]] = field(default_factory=list)
    earlier: list[tuple[int, int]] = field(default_factory=list)
    new: int = 0
    by_hash: int = 0
    by_run: int = 0
    zero: int = 0
    retroactive: int = 0

    def add(self, reference: int, length: int) -> None:
        """Append a run of found blocks, or a NEW one."""
        if self.runs:
            last, last_length = self.runs[-1]
            follows = last if last < 0 else last + last_length
            if reference == follows:
                self.runs[-1] = (last, last_length + length)
                return
        self.runs.append((reference, length))

    @staticmethod
    def repeated(reference: int) -> int | None:
        """Return the index of the block that a run repeats; None when it is no repeat."""
        return REPEAT - reference if reference <= REPEAT else None
