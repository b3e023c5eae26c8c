"""Hash entries of one epoch, in memory, and what tells of most hashes that they are not there."""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from thincow.engine.hash_filter import PrefixBits, signed
from thincow.engine.runs import Int64Array

_FEW: Final = 1 << 12
"""Of so few entries the dictionary is in the processor's caches, and asked at once."""
_PREFIX_BITS: Final = 23


class StagedEntries:
    """Hash -> reference; hashes are unsigned. For the thread that serves requests."""

    def __init__(self, entries: dict[int, int] | None = None) -> None:
        """Begin with some entries, which are adopted."""
        self.entries = entries or {}
        self._bits: PrefixBits | None = None

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.entries)

    def note(self, values: Collection[int], references: Collection[int]) -> None:
        """Add or replace entries."""
        self.entries.update(zip(values, references, strict=True))
        if self._bits is not None:
            self._bits.add(signed(values))
        elif len(self.entries) > _FEW:
            self._bits = PrefixBits(_PREFIX_BITS)
            self._bits.add(signed(self.entries))

    def note_one(self, value: int, reference: int) -> None:
        """Add or replace one entry."""
        self.entries[value] = reference
        if self._bits is not None:
            self._bits.add_one(value)

    def among(self, values: Sequence[int], hashes: Int64Array) -> dict[int, int]:
        """Return the entries of some hashes, given unsigned and, as an array, signed."""
        entries = self.entries
        if self._bits is None:
            if not entries or entries.keys().isdisjoint(values):
                return {}
            return {value: entries[value] for value in values if value in entries}
        perhaps = [values[at] for at in np.flatnonzero(self._bits.has(hashes)).tolist()]
        return {value: entries[value] for value in perhaps if value in entries}
