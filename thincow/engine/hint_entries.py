"""Hash entries of what is upstream, which wait for a commit: most are never asked for before.

So runs of them are only kept, and put into the dictionary that lookups ask when there is one.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from thincow.engine.hash_filter import signed
from thincow.engine.runs import Int64Array

_SHORT: Final = 16
"""Runs of fewer entries cost more as runs."""


class HashRun(NamedTuple):
    """Unsigned hashes of consecutive blocks, and the address of the first; not to be changed."""

    values: Sequence[int]
    address: int


@dataclass(frozen=True, slots=True)
class FrozenHints:
    """Entries of a frozen epoch, for whoever commits; nobody changes them any more."""

    entries: dict[int, int]
    runs: list[HashRun]
    zero_hash: int

    def __len__(self) -> int:
        """Return the number of entries, as that of `HintEntries`."""
        return len(self.entries) + sum(len(values) for values, _ in self.runs)

    def together(self) -> dict[int, int]:
        """Return all as hash -> address."""
        together = dict(self.entries)
        _add_runs(together, self.runs, self.zero_hash)
        return together

    def columns(self) -> tuple[Int64Array, Int64Array]:
        """Return signed hashes, ascending, each once, and addresses."""
        parts = [signed(self.entries)]
        addresses = [np.fromiter(self.entries.values(), np.int64, len(self.entries))]
        for values, first in self.runs:
            parts.append(signed(values))
            addresses.append(np.arange(first, first + len(values), dtype=np.int64))
        hashes = np.concatenate(parts)
        order = np.argsort(hashes)
        ascending = hashes[order]
        is_wanted = ascending != np.uint64(self.zero_hash).view(np.int64)
        is_wanted[1:] &= ascending[1:] != ascending[:-1]
        return ascending[is_wanted], np.concatenate(addresses)[order][is_wanted]


class HintEntries:
    """Hash -> address of what was read or flushed. For the thread that serves requests.

    Of one content at several addresses any may be kept: each is true.
    """

    def __init__(self, zero_hash: int) -> None:
        """Begin without any; none is made of zeros, whose hash is given."""
        self._zero_hash = zero_hash
        self._entries: dict[int, int] = {}
        self._runs: list[HashRun] = []
        self._in_runs = 0
        self._is_shared = False

    def __len__(self) -> int:
        """Return the number of entries; zeros, and what came twice, may count."""
        return len(self._entries) + self._in_runs

    @property
    def entries(self) -> dict[int, int]:
        """All as a dictionary, which costs time for runs that came since it was asked for last."""
        if self._runs:
            if self._is_shared:
                self._entries = dict(self._entries)
            _add_runs(self._entries, self._runs, self._zero_hash)
            self._runs, self._in_runs = [], 0
        return self._entries

    def note(self, runs: Sequence[HashRun]) -> None:
        """Add runs of entries."""
        zero = self._zero_hash
        for run in runs:
            values, address = run
            count = len(values)
            if count < _SHORT:
                self._entries.update(zip(values, range(address, address + count), strict=True))
                self._entries.pop(zero, None)
            elif values[0] != zero or values.count(zero) < count:
                self._runs.append(run)
                self._in_runs += count

    def note_one(self, value: int, address: int) -> None:
        """Add one entry."""
        self._entries[value] = address

    def freeze(self) -> FrozenHints:
        """Return all for a commit; from now on nothing is added."""
        self._is_shared = True
        return FrozenHints(self._entries, self._runs, self._zero_hash)

    def take_back(self, frozen: FrozenHints, newer: Container[int]) -> None:
        """Add entries whose commit failed, but those for which there are newer ones elsewhere."""
        for value, address in frozen.together().items():
            if value not in newer:
                self._entries.setdefault(value, address)


def _add_runs(entries: dict[int, int], runs: Sequence[HashRun], zero_hash: int) -> None:
    for values, first in runs:
        entries.update(zip(values, range(first, first + len(values)), strict=True))
    entries.pop(zero_hash, None)
