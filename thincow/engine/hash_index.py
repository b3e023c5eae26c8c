"""Where contents were seen: hash -> reference, staged in memory, then in the table.

Entries are hints. A lookup says where a content may be; the caller compares. Hashes are unsigned
in memory and signed in the database.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_64_intdigest

from thincow.block_types import COW_BASE
from thincow.engine.hash_filter import HashFilter
from thincow.engine.runs import Int64Array
from thincow.store import hashes_table
from thincow.store.connection import Connection

_SIGN = 1 << 63
_MODULUS = 1 << 64
_FEW = 8
"""Up to here arrays cost more than loops."""


@dataclass(frozen=True, slots=True)
class FrozenHashes:
    """Entries of a frozen epoch; those in `replacing` are known to be in the table."""

    staged: dict[int, int]
    replacing: set[int]


class HashIndex:
    """Lookups for the thread that serves requests; `write` is for whoever commits."""

    def __init__(
        self,
        reader: Connection,
        block_size: int,
        capacity: int,
        entries: int,
        max_staged: int = 1 << 20,
    ) -> None:
        """Look up in the table through `reader`; it has `entries`, and at most `capacity`.

        Once `max_staged` entries wait for a commit, `takes_hints` asks readers for no more.
        """
        self._reader = reader
        self._staged: dict[int, int] = {}
        self._replacing: set[int] = set()
        self._frozen: dict[int, int] = {}
        self._max_staged = max_staged
        self.capacity = capacity
        self.filter = HashFilter(entries)
        self.learns_upstream = True
        """False while a flush runs: what is upstream is going to be overwritten."""
        self.zero_hash: int = xxh3_64_intdigest(bytes(block_size))

    @property
    def staged_entries(self) -> int:
        """Number of entries that wait for the next commit."""
        return len(self._staged)

    @property
    def takes_hints(self) -> bool:
        """Whether what is merely read should be noted.

        Not while commits cannot keep up, nor while a flush runs: what is noted as seen without its
        hash would not be hashed again.
        """
        return self.learns_upstream and len(self._staged) < self._max_staged

    def stop_hints(self) -> None:
        """Take none from now on: no commit will ever store them."""
        self._max_staged = 0

    def lookup(self, value: int) -> int | None:
        """Return the reference recorded for a hash."""
        found = self._staged.get(value)
        if found is None:
            found = self._frozen.get(value)
        if found is None and self.filter.may_have(value):
            found = hashes_table.lookup(self._reader, value - _MODULUS if value >= _SIGN else value)
        return found

    def lookup_many(self, values: Sequence[int]) -> dict[int, int]:
        """Return hash -> reference for those hashes that are known."""
        staged, frozen = self._staged, self._frozen
        unknown = [value for value in values if value not in staged and value not in frozen]
        found = {}
        candidates = self.filter.candidates(unknown)
        if len(candidates):
            stored = hashes_table.lookup_many(self._reader, candidates)
            found = {key % _MODULUS: reference for key, reference in stored.items()}
        if len(unknown) < len(values):
            for value in values:
                reference = staged.get(value)
                if reference is None:
                    reference = frozen.get(value)
                if reference is not None:
                    found[value] = reference
        return found

    def note(self, values: Iterable[int], references: Iterable[int]) -> None:
        """Record that contents with these hashes are at these references."""
        entries = zip(values, references, strict=True)
        if self.learns_upstream:
            self._staged.update(entries)
        else:
            self._staged.update(entry for entry in entries if not 0 <= entry[1] < COW_BASE)
        self._staged.pop(self.zero_hash, None)

    def note_one(self, value: int, reference: int) -> None:
        """Record as `note` does for one content."""
        if value != self.zero_hash and (self.learns_upstream or reference >= COW_BASE):
            self._staged[value] = reference

    def note_flushed(self, values: Iterable[int], addresses: Iterable[int]) -> None:
        """Record contents that a flush wrote upstream and synced."""
        self._staged.update(zip(values, addresses, strict=True))
        self._staged.pop(self.zero_hash, None)

    def note_copied(self, values: Iterable[int], references: Iterable[int]) -> None:
        """Record copies in the COW store, in place of what is upstream and to be overwritten."""
        entries = dict(zip(values, references, strict=True))
        self.note(entries, entries.values())
        self._replacing.update(entries)

    def note_stale(self, value: int) -> None:
        """Record that the table's entry for a hash leads to other contents: replace it."""
        self._replacing.add(value)

    def freeze(self) -> FrozenHashes:
        """End the epoch and return its entries."""
        frozen = FrozenHashes(self._staged, self._replacing)
        self._frozen = self._staged
        self._staged = {}
        self._replacing = set()
        return frozen

    def settle(self) -> None:
        """Note that the frozen entries are in the table."""
        self._frozen = {}

    def merge_back(self, frozen: FrozenHashes) -> None:
        """Take back the entries of an epoch whose commit failed."""
        self._frozen = {}
        self._staged = frozen.staged | self._staged
        self._replacing |= frozen.replacing


def write(
    db: Connection,
    frozen: FrozenHashes,
    known: HashFilter,
    entries: int,
    capacity: int,
    generation: int,
) -> int:
    """Put the entries of an epoch into the table, in the caller's transaction.

    Args:
        db: the writing connection.
        frozen: the entries.
        known: the filter that has to let them pass.
        entries: number of entries in the table before.
        capacity: number of entries that it may hold.
        generation: of the commit; it decides where eviction starts.

    Returns:
        The number of entries in the table afterwards.
    """
    fresh = frozen.staged
    if len(fresh) <= _FEW and not frozen.replacing and min(fresh.values()) >= COW_BASE:
        for value, reference in fresh.items():
            signed = value - _MODULUS if value >= _SIGN else value
            known.add_one(signed)
            entries += hashes_table.insert_new_cow(db, signed, reference)
        return shrink(db, entries, capacity, generation)
    if frozen.replacing:
        newer = {value: fresh[value] for value in frozen.replacing if value in fresh}
        fresh = {value: ref for value, ref in fresh.items() if value not in newer}
        values, references = sorted_entries(newer)
        known.add(values)
        # What was evicted meanwhile is counted; the others are overwritten then.
        entries += hashes_table.insert_new(db, values, references)
        hashes_table.replace(db, values, references)
    if fresh:
        values, references = sorted_entries(fresh)
        known.add(values)
        entries += hashes_table.insert_new(db, values, references)
    return shrink(db, entries, capacity, generation)


def shrink(db: Connection, entries: int, capacity: int, generation: int) -> int:
    """Evict what the table, with `entries`, has too many; return how many are left."""
    if entries <= capacity:
        return entries
    start = xxh3_64_intdigest(generation.to_bytes(8, "little")) - _SIGN
    return entries - hashes_table.evict(db, start, entries - capacity)


def sorted_entries(entries: dict[int, int]) -> tuple[Int64Array, Int64Array]:
    """Return signed hashes in ascending order and their references."""
    values = _signed(list(entries))
    references = np.fromiter(entries.values(), np.int64, len(entries))
    order = np.argsort(values)
    return values[order], references[order]


def _signed(values: Sequence[int]) -> Int64Array:
    return np.array(values, np.uint64).view(np.int64)
