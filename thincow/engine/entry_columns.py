"""Hash entries as arrays: those that a commit takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thincow.engine.hash_filter import signed
from thincow.engine.runs import BoolArray, Int64Array


class Columns(NamedTuple):
    """Signed hashes, and the reference of each."""

    hashes: Int64Array
    references: Int64Array


@dataclass(frozen=True, slots=True)
class FrozenEntries:
    """Entries of a frozen epoch, oldest first; for any thread, since nothing of it changes."""

    parts: tuple[Columns, ...]
    singles: dict[int, int]
    """Unsigned hash -> reference: the newest."""

    def __len__(self) -> int:
        """Return the number of entries, older ones of a hash included."""
        return sum(len(part.hashes) for part in self.parts) + len(self.singles)

    def together(self) -> Columns:
        """Return all, oldest first."""
        parts = [*self.parts, columns_of(self.singles)] if self.singles else self.parts
        return joined(parts)

    def ascending(self) -> Columns:
        """Return the newest entry of each hash, in ascending order of hashes."""
        hashes, references = self.together()
        order = np.argsort(hashes)
        ascending = hashes[order]
        if (ascending[1:] == ascending[:-1]).any():
            is_newest = last_of_each(hashes)
            hashes, references = hashes[is_newest], references[is_newest]
            order = np.argsort(hashes)
            ascending = hashes[order]
        return Columns(ascending, references[order])


def columns_of(entries: dict[int, int]) -> Columns:
    """Return the columns of a dictionary of unsigned hash -> reference."""
    references = np.fromiter(entries.values(), np.int64, len(entries))
    return Columns(signed(entries), references)


def joined(parts: Sequence[Columns]) -> Columns:
    """Return columns behind each other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Columns(np.empty(0, np.int64), np.empty(0, np.int64))
    return Columns(
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.references for part in parts]),
    )


def last_of_each(hashes: Int64Array) -> BoolArray:
    """Tell of each hash whether it does not come again later."""
    order = np.argsort(hashes, kind="stable")
    ascending = hashes[order]
    is_newest = np.zeros(len(hashes), np.bool_)
    is_newest[order[:-1][ascending[1:] != ascending[:-1]]] = True
    is_newest[order[-1:]] = True
    return is_newest


def is_among(hashes: Int64Array, others: Int64Array) -> BoolArray:
    """Tell of each hash whether it is one of some others, of which there is at least one."""
    ascending = np.sort(others)
    places = np.minimum(ascending.searchsorted(hashes), len(ascending) - 1)
    found: BoolArray = ascending[places] == hashes
    return found
