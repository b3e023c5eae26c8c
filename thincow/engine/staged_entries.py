"""Hash entries of one epoch, in memory.

Chains in arrays, so that what a large request brings is added and looked up together: a dictionary
takes four times the memory, and a miss of the processor's caches for each entry. Those of small
requests are gathered in a small dictionary, and large notes wait as they come until somebody looks
something up. Newer entries of a hash hide older ones.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from thincow.engine.entry_columns import Columns, FrozenEntries, columns_of, joined, last_of_each
from thincow.engine.hash_filter import signed
from thincow.engine.runs import Int64Array

Int32Array = npt.NDArray[np.int32]

_FEW: Final = 64
"""Fewer entries at a time cost less one by one."""
_MANY_SINGLES: Final = 1 << 12
"""A dictionary with more than this is larger than the processor's caches."""
_AT_A_TIME: Final = 1 << 16
"""So many entries one lookup makes ready to be found, so that no request waits for millions."""
_SLOT_BITS: Final = 19
_SIGN: Final = 1 << 63
_MODULUS: Final = 1 << 64
_MOST_ALIKE: Final = 16
"""More entries for one slot than chance brings at a time: mostly the same content."""
_END: Final = -1
"""Where a chain ends."""
_GONE: Final = np.iinfo(np.int64).min
"""The reference of an entry that was taken away."""


class StagedEntries:
    """Hash -> reference. For the thread that serves requests."""

    def __init__(self, zero_hash: int) -> None:
        """Begin without any; none is of zeros, whose unsigned hash is given."""
        self._zero_hash = zero_hash
        self._signed_zero_hash = np.uint64(zero_hash).astype(np.int64)
        self._singles: dict[int, int] = {}
        self._waiting: deque[Columns] = deque()
        self._is_shared = False
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
            self._limit_singles()
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

    def note_one(self, value: int, reference: int) -> None:
        """Add an entry of an unsigned hash, not that of zeros."""
        self._singles[value] = reference
        self._limit_singles()

    def get(self, value: int) -> int | None:
        """Return the reference of an unsigned hash, as far as `among` finds it."""
        if self._waiting:
            self._chain()
        return self._find(value)

    def among(self, values: Sequence[int], hashes: Int64Array) -> dict[int, int]:
        """Return the entries of some hashes, given unsigned and, as an array, signed.

        Of very many that were noted at once, the last may not be found yet.
        """
        if self._waiting:
            self._chain()
        if len(values) < _FEW:
            return {value: place for value in values if (place := self._find(value)) is not None}
        found = self._among_arrays(values, hashes) if self._chained else {}
        singles = self._singles
        if singles and not singles.keys().isdisjoint(values):
            found |= {value: singles[value] for value in values if value in singles}
        return found

    def make_ready(self) -> None:
        """Have everything found from now on."""
        while self._waiting:
            self._chain()

    def discard(self, values: Sequence[int]) -> None:
        """Take the entries of some unsigned hashes away, as far as `among` finds them."""
        for value in self._singles.keys() & values if self._singles else ():
            del self._singles[value]
        if self._chained:
            self._among_arrays(values, signed(values), take_away=True)

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
        self._is_shared = True
        parts = list(self._waiting)
        if self._chained:
            chained = Columns(self._hashes[: self._chained], self._references[: self._chained])
            is_there = chained.references != _GONE
            if not is_there.all():
                chained = Columns(chained.hashes[is_there], chained.references[is_there])
            parts = [chained, *parts]
        return FrozenEntries(tuple(parts), self._singles)

    def _limit_singles(self) -> None:
        if len(self._singles) > _MANY_SINGLES:
            self._retire_singles()

    def _retire_singles(self) -> None:
        """Move single entries to the arrays, where newer ones hide them."""
        if self._singles:
            self._add(columns_of(self._singles))
            self._singles = {}

    def _add(self, columns: Columns) -> None:
        hashes, references = columns
        for at in range(0, len(hashes), _AT_A_TIME):
            part = slice(at, at + _AT_A_TIME)
            self._waiting.append(Columns(hashes[part], references[part]))
        self._in_arrays += len(hashes)

    def _find(self, value: int) -> int | None:
        found = self._singles.get(value)
        if found is not None or not self._chained:
            return found
        heads, hashes, references, after = self._cells
        wanted = value - _MODULUS if value >= _SIGN else value
        at = heads[value >> (64 - _SLOT_BITS)]
        while at != _END:
            if hashes[at] == wanted and references[at] != _GONE:
                return int(references[at])
            at = after[at]
        return None

    def _among_arrays(
        self, values: Sequence[int], hashes: Int64Array, *, take_away: bool = False
    ) -> dict[int, int]:
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
            # There may be older ones of the same hash, which must go, too.
            goes_on = (entries != _END) & (take_away | ~is_there)
            asked, entries = asked[goes_on], entries[goes_on]
        return found

    def _chain(self) -> None:
        """Put what waits into the chains, the oldest first."""
        parts = [self._waiting.popleft()]
        count = len(parts[0].hashes)
        while self._waiting and count + len(self._waiting[0].hashes) <= _AT_A_TIME:
            parts.append(self._waiting.popleft())
            count += len(parts[-1].hashes)
        hashes, references = joined(parts)
        if self._is_shared:
            self._references = self._references.copy()
            self._is_shared = False
            self._look_at_cells()
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
                is_newest = last_of_each(self._hashes[entries])
                self._references[entries[~is_newest]] = _GONE
                entries, slots = entries[is_newest], slots[is_newest]
            before = heads[slots]
            # Of several for one slot the last assignment counts: the oldest comes first.
            heads[slots[::-1]] = entries[::-1]
            is_first = heads[slots] == entries
            self._link(entries[is_first], before[is_first])
            entries, slots = entries[~is_first], slots[~is_first]

    def _link(self, entries: Int32Array, before: Int32Array) -> None:
        """Put entries before those that begin their chains; what these hide mostly leaves them."""
        self._next[entries] = before
        hidden = (before != _END) & (self._hashes[before] == self._hashes[entries])
        if hidden.any():
            self._references[before[hidden]] = _GONE
            self._next[entries[hidden]] = self._next[before[hidden]]

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


def _slots(hashes: Int64Array) -> Int64Array:
    return (hashes.view(np.uint64) >> np.uint64(64 - _SLOT_BITS)).view(np.int64)


def _enlarged(array: Int64Array, size: int) -> Int64Array:
    return np.concatenate([array, np.empty(size - len(array), np.int64)])
