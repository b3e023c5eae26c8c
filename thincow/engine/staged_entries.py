"""Hash entries of one epoch, in memory.

A hash table whose chains are arrays, so that a request's entries are added and looked up together:
a dictionary costs ten times the memory, and a miss of the processor's caches for each. Single
entries are kept in a small dictionary, and large notes as they come, until somebody looks something
up. Newer entries of a hash hide older ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from thincow.engine.hash_filter import signed
from thincow.engine.runs import BoolArray, Int64Array

Int32Array = npt.NDArray[np.int32]

_FEW: Final = 16
"""So few entries at a time cost less in a dictionary."""
_MANY_SINGLES: Final = 1 << 12
"""A dictionary with more than this is larger than the processor's caches."""
_SLOT_BITS: Final = 19
_SIGN: Final = 1 << 63
_MODULUS: Final = 1 << 64
_MOST_ALIKE: Final = 16
"""More entries for one slot than chance brings at a time: the same content again and again."""
_END: Final = -1
"""Where a chain ends."""
_GONE: Final = np.iinfo(np.int64).min
"""The reference of an entry that was taken away."""


class HashRun(NamedTuple):
    """Signed hashes of consecutive blocks, and the address of the first; not to be changed."""

    hashes: Int64Array
    address: int


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
        parts = [*self.parts, _columns_of(self.singles)] if self.singles else self.parts
        return _joined(parts)

    def ascending(self) -> Columns:
        """Return the newest entry of each hash, in ascending order of hashes."""
        hashes, references = self.together()
        order = np.argsort(hashes)
        ascending = hashes[order]
        if (ascending[1:] == ascending[:-1]).any():
            is_newest = _is_newest(hashes)
            hashes, references = hashes[is_newest], references[is_newest]
            order = np.argsort(hashes)
            ascending = hashes[order]
        return Columns(ascending, references[order])


class StagedEntries:
    """Hash -> reference. For the thread that serves requests."""

    def __init__(self, zero_hash: int) -> None:
        """Begin without any; none is of zeros, whose unsigned hash is given."""
        self._zero_hash = zero_hash
        self._signed_zero_hash = np.uint64(zero_hash).astype(np.int64)
        self._singles: dict[int, int] = {}
        self._waiting: list[Columns] = []
        self._chained = 0
        self._hashes = np.empty(0, np.int64)
        self._references = np.empty(0, np.int64)
        self._next = np.empty(0, np.int32)
        self._heads = np.empty(0, np.int32)
        self._in_arrays = 0
        self._look_at_cells()

    def __len__(self) -> int:
        """Return the number of entries; older ones of the same hash may count."""
        return self._in_arrays + len(self._singles)

    def note(self, values: Sequence[int], references: Sequence[int]) -> None:
        """Add entries of unsigned hashes."""
        if len(values) < _FEW:
            self._singles.update(zip(values, references, strict=True))
            self._singles.pop(self._zero_hash, None)
            return
        if isinstance(references, range):
            places = np.arange(references.start, references.stop, dtype=np.int64)
        else:
            places = np.array(references, np.int64)
        self.note_columns(Columns(signed(values), places))

    def note_columns(self, columns: Columns) -> None:
        """Add entries given as arrays, which are not changed from now on."""
        hashes, references = columns
        is_wanted = hashes != self._signed_zero_hash
        if not is_wanted.all():
            hashes, references = hashes[is_wanted], references[is_wanted]
        if len(hashes):
            self._retire_singles()
            self._add(Columns(hashes, references))

    def note_run(self, run: HashRun) -> None:
        """Add the entries of consecutive blocks."""
        hashes, first = run
        self.note_columns(Columns(hashes, np.arange(first, first + len(hashes), dtype=np.int64)))

    def note_one(self, value: int, reference: int) -> None:
        """Add an entry of an unsigned hash, not that of zeros."""
        self._singles[value] = reference
        if len(self._singles) > _MANY_SINGLES:
            self._retire_singles()

    def get(self, value: int) -> int | None:
        """Return the reference of an unsigned hash."""
        found = self._singles.get(value)
        if found is not None or not self._in_arrays:
            return found
        if self._waiting:
            self._chain()
        heads, hashes, references, after = self._cells
        wanted = value - _MODULUS if value >= _SIGN else value
        at = heads[value >> (64 - _SLOT_BITS)]
        while at != _END:
            if hashes[at] == wanted and references[at] != _GONE:
                return int(references[at])
            at = after[at]
        return None

    def among(self, values: Sequence[int], hashes: Int64Array) -> dict[int, int]:
        """Return the entries of some hashes, given unsigned and, as an array, signed."""
        found = self._among_arrays(values, hashes) if self._in_arrays else {}
        singles = self._singles
        if singles and not singles.keys().isdisjoint(values):
            found |= {value: singles[value] for value in values if value in singles}
        return found

    def discard(self, values: Sequence[int]) -> None:
        """Take the entries of some unsigned hashes away."""
        for value in self._singles.keys() & values if self._singles else ():
            del self._singles[value]
        if not self._in_arrays:
            return
        hashes = signed(values)
        while self._among_arrays(values, hashes, take_away=True):
            pass  # there may be older ones

    def split(self, count: int) -> tuple["StagedEntries", "StagedEntries"]:
        """Return the oldest `count` entries, and the others; this is not used any more."""
        others = StagedEntries(self._zero_hash)
        if len(self) <= count:
            return self, others
        oldest = StagedEntries(self._zero_hash)
        hashes, references = self.freeze().together()
        oldest.note_columns(Columns(hashes[:count], references[:count]))
        others.note_columns(Columns(hashes[count:], references[count:]))
        return oldest, others

    def freeze(self) -> FrozenEntries:
        """Return all for a commit; from now on nothing is added or taken away."""
        parts = self._waiting
        if self._chained:
            chained = Columns(self._hashes[: self._chained], self._references[: self._chained])
            is_there = chained.references != _GONE
            if not is_there.all():
                chained = Columns(chained.hashes[is_there], chained.references[is_there])
            parts = [chained, *parts]
        return FrozenEntries(tuple(parts), self._singles)

    def _retire_singles(self) -> None:
        """Move single entries to the arrays, where newer ones hide them."""
        if self._singles:
            self._add(_columns_of(self._singles))
            self._singles = {}

    def _add(self, columns: Columns) -> None:
        self._waiting.append(columns)
        self._in_arrays += len(columns.hashes)

    def _among_arrays(
        self, values: Sequence[int], hashes: Int64Array, *, take_away: bool = False
    ) -> dict[int, int]:
        if self._waiting:
            self._chain()
        found: dict[int, int] = {}
        entries = self._heads[_slots(hashes)]
        asked = np.flatnonzero(entries != _END)
        entries = entries[asked]
        while len(asked):
            is_there = self._hashes[entries] == hashes[asked]
            is_there &= self._references[entries] != _GONE
            if is_there.any():
                at = entries[is_there]
                found |= zip(
                    [values[index] for index in asked[is_there].tolist()],
                    self._references[at].tolist(),
                    strict=True,
                )
                if take_away:
                    self._references[at] = _GONE
            entries = self._next[entries]
            goes_on = ~is_there & (entries != _END)
            asked, entries = asked[goes_on], entries[goes_on]
        return found

    def _chain(self) -> None:
        """Put what waits into the chains."""
        hashes, references = _joined(self._waiting)
        self._waiting = []
        first, end = self._chained, self._chained + len(hashes)
        self._grow(end)
        self._hashes[first:end] = hashes
        self._references[first:end] = references
        self._chained = end
        entries = np.arange(first, end, dtype=np.int32)
        slots = _slots(hashes)
        heads = self._heads
        steps = 0
        while len(entries):
            steps += 1
            if steps == _MOST_ALIKE:
                is_newest = _is_newest(self._hashes[entries])
                self._references[entries[~is_newest]] = _GONE
                entries, slots = entries[is_newest], slots[is_newest]
            before = heads[slots]
            # Of several for one slot the last assignment counts: the oldest comes first.
            heads[slots[::-1]] = entries[::-1]
            is_first = heads[slots] == entries
            self._next[entries[is_first]] = before[is_first]
            entries, slots = entries[~is_first], slots[~is_first]

    def _grow(self, wanted: int) -> None:
        if wanted <= len(self._hashes):
            return
        if not len(self._heads):
            self._heads = np.full(1 << _SLOT_BITS, _END, np.int32)
        size = max(wanted, 2 * len(self._hashes))
        self._hashes = _enlarged(self._hashes, size)
        self._references = _enlarged(self._references, size)
        self._next = np.concatenate([self._next, np.empty(size - len(self._next), np.int32)])
        self._look_at_cells()

    def _look_at_cells(self) -> None:
        """Take views of the arrays for fast access to single values."""
        arrays = self._heads, self._hashes, self._references, self._next
        self._cells = tuple(array.data for array in arrays)


def _is_newest(hashes: Int64Array) -> BoolArray:
    """Tell of each hash whether it does not come again later."""
    order = np.argsort(hashes, kind="stable")
    ascending = hashes[order]
    is_newest = np.zeros(len(hashes), np.bool_)
    is_newest[order[:-1][ascending[1:] != ascending[:-1]]] = True
    is_newest[order[-1:]] = True
    return is_newest


def _slots(hashes: Int64Array) -> Int64Array:
    return (hashes.view(np.uint64) >> np.uint64(64 - _SLOT_BITS)).view(np.int64)


def _columns_of(entries: dict[int, int]) -> Columns:
    references = np.fromiter(entries.values(), np.int64, len(entries))
    return Columns(np.fromiter(entries, np.uint64, len(entries)).view(np.int64), references)


def _joined(parts: Sequence[Columns]) -> Columns:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Columns(np.empty(0, np.int64), np.empty(0, np.int64))
    return Columns(
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.references for part in parts]),
    )


def _enlarged(array: Int64Array, size: int) -> Int64Array:
    return np.concatenate([array, np.empty(size - len(array), np.int64)])
