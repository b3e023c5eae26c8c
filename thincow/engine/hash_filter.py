"""Tells of most hashes that the table has no entry for them, without looking there.

One bit for each prefix of hashes. It is built from the table in order of hashes, a part after
each commit, and serves for what is built already. When many entries were added it is built anew,
larger, beside the old one. What the table has evicted leaves its bits behind until then.

`add` and `build` are for whoever commits; they may run beside questions from another thread,
because bits are only ever set, and before the entries can be seen.
"""

from collections.abc import Collection
from typing import Final

import numpy as np

from thincow.engine.runs import BoolArray, Int64Array
from thincow.store import hashes_table
from thincow.store.connection import Connection

_SIGN: Final = 1 << 63
_MODULUS: Final = 1 << 64
_LARGEST: Final = _SIGN - 1
_MIN_PREFIX_BITS: Final = 25
_MAX_PREFIX_BITS: Final = 32
_PREFIXES_AN_ENTRY: Final = 8
_CROWDED: Final = 3
"""Built anew when there are fewer prefixes than this for each entry added."""


class HashFilter:
    """A filter for the hashes of one table."""

    def __init__(self, entries: int, min_prefix_bits: int = _MIN_PREFIX_BITS) -> None:
        """Begin for a table with so many entries."""
        self._min_prefix_bits = min_prefix_bits
        self._serving = self._sized_for(entries)
        if entries == 0:
            self._serving.built_to = _LARGEST
        self._next: PrefixBits | None = None

    def may_have(self, value: int) -> bool:
        """Tell whether the table may have an entry for an unsigned hash."""
        bits = self._serving
        prefix = value >> bits.shift
        if bits.cells[prefix >> 3] >> (prefix & 7) & 1:
            return True
        return (value - _MODULUS if value >= _SIGN else value) > bits.built_to

    def may_have_each(self, hashes: Int64Array) -> BoolArray:
        """Tell of each of some signed hashes whether the table may have it."""
        bits = self._serving
        perhaps: BoolArray = bits.has(hashes) | (hashes > bits.built_to)
        return perhaps

    def add(self, hashes: Int64Array) -> None:
        """Note signed hashes whose entries are about to be added to the table."""
        self._serving.add(hashes)
        if self._next is not None:
            self._next.add(hashes)

    def add_one(self, value: int) -> None:
        """Do what `add` does for one hash."""
        self._serving.add_one(value)
        if self._next is not None:
            self._next.add_one(value)

    def build(self, db: Connection, entries: int, max_rows: int) -> None:
        """Go on building, by up to `max_rows` rows of the table, which has `entries`."""
        bits = self._next or self._serving
        if bits.built_to == _LARGEST:
            if not bits.is_crowded:
                return
            bits = self._next = self._sized_for(entries)
        last, prefixes = hashes_table.prefixes_from(db, bits.built_to + 1, max_rows)
        bits.add_prefixes(prefixes)
        bits.built_to = _LARGEST if last is None else last
        if last is None:
            self._serving, self._next = bits, None

    def _sized_for(self, entries: int) -> "PrefixBits":
        wanted = (entries * _PREFIXES_AN_ENTRY).bit_length()
        return PrefixBits(min(max(wanted, self._min_prefix_bits), _MAX_PREFIX_BITS))


def signed(values: Collection[int]) -> Int64Array:
    """Return unsigned hashes as an array of signed ones."""
    return np.fromiter(values, np.uint64, len(values)).view(np.int64)


class PrefixBits:
    """A bit for each prefix. Entries with signed hashes up to `built_to` are in it."""

    def __init__(self, prefix_bits: int) -> None:
        self._prefix_bits = prefix_bits
        self.shift = 64 - prefix_bits
        self._array = np.zeros(1 << (prefix_bits - 3), np.uint8)
        self.cells = self._array.data
        self.built_to = -_SIGN - 1
        self._added = 0

    @property
    def is_crowded(self) -> bool:
        """Whether so much was added that it says 'perhaps' too often."""
        limit = 1 << self._prefix_bits
        return self._added * _CROWDED > limit and self._prefix_bits < _MAX_PREFIX_BITS

    def has(self, hashes: Int64Array) -> BoolArray:
        """Tell of signed hashes whether the bit of their prefix is set."""
        prefixes = hashes.view(np.uint64) >> np.uint64(self.shift)
        shifted = self._array[prefixes >> np.uint64(3)] >> (prefixes & np.uint64(7)).astype(
            np.uint8
        )
        result: BoolArray = (shifted & 1).view(np.bool_)
        return result

    def add(self, hashes: Int64Array) -> None:
        """Add signed hashes."""
        self._set(hashes.view(np.uint64) >> np.uint64(self.shift))

    def add_one(self, value: int) -> None:
        """Add one hash, signed or not."""
        prefix = (value & (_MODULUS - 1)) >> self.shift
        self.cells[prefix >> 3] |= 1 << (prefix & 7)
        self._added += 1

    def add_prefixes(self, prefixes: Int64Array) -> None:
        """Add hashes of which the upper 32 bits are given, signed."""
        self._set((prefixes & 0xFFFFFFFF).view(np.uint64) >> np.uint64(self.shift - 32))

    def _set(self, prefixes: "np.ndarray[tuple[int], np.dtype[np.uint64]]") -> None:
        masks = np.left_shift(np.uint8(1), (prefixes & np.uint64(7)).astype(np.uint8))
        np.bitwise_or.at(self._array, (prefixes >> np.uint64(3)).view(np.int64), masks)
        self._added += len(prefixes)
