"""Where contents were seen: hash -> reference, staged in memory, then in the table.

Entries are hints. A lookup says where a content may be; the caller compares. Hashes are unsigned
in memory and signed in the database.

Invariant: every commit stores the entries of contents that it puts into the COW store, which a
check of contents relies on. Those of what is upstream may wait for a commit that nobody waits for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from thincow.engine.entry_columns import Columns, FrozenEntries, is_among
from thincow.engine.hash_filter import HashFilter, signed
from thincow.engine.staged_entries import StagedEntries
from thincow.store import hashes_table
from thincow.store.connection import Connection

_SIGN = 1 << 63
_MODULUS = 1 << 64
_FEW = 8
"""Up to here arrays cost more than loops."""
_MOST_AT_ONCE = 1 << 16
"""Entries that a mount drops, which takes some tenths of a second."""


@dataclass(frozen=True, slots=True)
class FrozenHashes:
    """Entries of a frozen epoch; the unsigned hashes `replacing` are in the table.

    `stored` are of contents that the epoch put into the COW store, `hints` of what is upstream.
    """

    stored: FrozenEntries
    hints: FrozenEntries
    replacing: set[int]
    is_hurried: bool
    """Whether hints may not wait any longer."""

    @property
    def count(self) -> int:
        """How many entries there are."""
        return len(self.stored) + len(self.hints)


class HashIndex:
    """Lookups for the thread that serves requests; `write` is for whoever commits."""

    def __init__(
        self,
        reader: Connection,
        block_size: int,
        capacity: int,
        entries: int,
        *,
        max_hints: int,
        max_in_commit: int,
    ) -> None:
        """Look up in the table through `reader`; it has `entries`, and at most `capacity`.

        Once `max_hints` entries of what is upstream wait for a commit, `takes_hints` asks readers
        for no more, and no commit leaves them out. One commit takes `max_in_commit` of them.
        """
        self._reader = reader
        self.zero_hash: int = xxh3_64_intdigest(bytes(block_size))
        self._stored = self._none()
        self._hints = self._none()
        self._hints_hurry = False
        self._replacing: set[int] = set()
        self._frozen_stored = self._none()
        self._frozen_hints = self._none()
        self._max_hints = max_hints
        self._max_in_commit = max_in_commit
        self.capacity = capacity
        self.filter = HashFilter(entries)
        self.learns_upstream = True
        """False while a flush runs: what is upstream is going to be overwritten."""

    @property
    def staged_entries(self) -> int:
        """Number of entries that wait for a commit."""
        return len(self._stored) + len(self._hints)

    @property
    def stored_entries(self) -> int:
        """Number of those that the next commit takes, whoever waits for it."""
        return len(self._stored)

    @property
    def has_stored(self) -> bool:
        """Whether there are entries that the next commit must take along."""
        return bool(self._stored) or (self._hints_hurry and bool(self._hints))

    @property
    def takes_hints(self) -> bool:
        """Whether what is merely read should be noted.

        Not while commits cannot keep up, nor while a flush runs: what is noted as seen without its
        hash would not be hashed again.
        """
        return self.learns_upstream and len(self._hints) < self._max_hints

    def stop_hints(self) -> None:
        """Take none from now on: no commit will ever store them."""
        self._max_hints = 0

    def lookup(self, value: int) -> int | None:
        """Return the reference recorded for a hash."""
        for entries in (self._hints, self._stored, self._frozen_hints, self._frozen_stored):
            if entries and (found := entries.get(value)) is not None:
                return found
        if self.filter.may_have(value):
            return hashes_table.lookup(self._reader, value - _MODULUS if value >= _SIGN else value)
        return None

    def lookup_many(self, values: Sequence[int]) -> dict[int, int]:
        """Return hash -> reference for those hashes that are known."""
        hashes = signed(values)
        found: dict[int, int] = {}
        candidates = hashes[self.filter.may_have_each(hashes)]
        if len(candidates):
            rows = hashes_table.lookup_many(self._reader, candidates)
            found = {key % _MODULUS: reference for key, reference in rows.items()}
        for entries in (self._frozen_stored, self._frozen_hints, self._stored, self._hints):
            if entries:
                found |= entries.among(values, hashes)
        return found

    def note_stored(self, values: Sequence[int], references: Sequence[int]) -> None:
        """Record that contents with these hashes are at these places in the COW store."""
        if self._hints:
            self._hints.discard(values)
        self._stored.note(values, references)

    def note_one_stored(self, value: int, reference: int) -> None:
        """Record as `note_stored` does for one content, of which `lookup` found nothing."""
        if value != self.zero_hash:
            self._stored.note_one(value, reference)

    def note_read(self, values: Sequence[int], address: int) -> None:
        """Record that contents with these hashes are upstream, from a block address on."""
        if self.learns_upstream:
            self._hints.note(values, range(address, address + len(values)))

    def note_one_read(self, value: int, address: int) -> None:
        """Record as `note_read` does for one content."""
        if self.learns_upstream and value != self.zero_hash:
            self._hints.note_one(value, address)

    def note_flushed(self, written: Columns) -> None:
        """Record contents that a flush wrote upstream and synced."""
        self._hints.note_columns(written)

    def note_copied(self, values: Sequence[int], references: Sequence[int]) -> None:
        """Record copies in the COW store, in place of what is upstream and to be overwritten."""
        self._hints.make_ready()
        self.note_stored(values, references)
        self._replacing.update(values)

    def note_stale(self, value: int) -> None:
        """Record that the table's entry for a hash leads to other contents: replace it."""
        self._replacing.add(value)

    def hurry(self) -> None:
        """Let no hint of so far wait for a commit later than the next one that succeeds."""
        self._hints_hurry = True

    def freeze(self, *, is_awaited: bool = False) -> FrozenHashes:
        """End the epoch and return its entries.

        While somebody waits, hints are left to a later commit, unless they have become many. Of
        many, the oldest come first.
        """
        self._frozen_stored, self._stored = self._stored, self._none()
        if self._hints_hurry:
            self._frozen_hints, self._hints = self._hints, self._none()
        elif not is_awaited or len(self._hints) >= self._max_hints:
            self._frozen_hints, self._hints = self._hints.split(self._max_in_commit)
        left: set[int] = set()
        if self._replacing and self._hints:
            replacing = list(self._replacing)
            left = set(self._hints.among(replacing, signed(replacing)))
        frozen = FrozenHashes(
            self._frozen_stored.freeze(),
            self._frozen_hints.freeze(),
            self._replacing - left,
            self._hints_hurry,
        )
        self._replacing = left
        self._hints_hurry = False
        return frozen

    def settle(self) -> None:
        """Note that the frozen entries are in the table."""
        self._frozen_stored, self._frozen_hints = self._none(), self._none()

    def merge_back(self, frozen: FrozenHashes) -> None:
        """Take back the entries of an epoch whose commit failed."""
        self.settle()
        stored, hints = self._stored.freeze().together(), self._hints.freeze().together()
        hashes, references = frozen.hints.together()
        if len(stored.hashes):
            is_newest = ~is_among(hashes, stored.hashes)
            hashes, references = hashes[is_newest], references[is_newest]
        self._hints, self._stored = self._none(), self._none()
        for entries, columns in (
            (self._hints, Columns(hashes, references)),
            (self._hints, hints),
            (self._stored, frozen.stored.together()),
            (self._stored, stored),
        ):
            entries.note_columns(columns)
        self._hints_hurry |= frozen.is_hurried
        self._replacing |= frozen.replacing

    def _none(self) -> StagedEntries:
        return StagedEntries(self.zero_hash)


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
    before = entries
    singles = frozen.stored.singles
    if not frozen.replacing and frozen.count == len(singles) <= _FEW:
        for value, reference in singles.items():
            known.add_one(value)
            as_stored = value - _MODULUS if value >= _SIGN else value
            entries += hashes_table.insert_new_cow(db, as_stored, reference)
        return shrink(db, entries, capacity, generation, 2 * (entries - before))
    stored, hints = frozen.stored.ascending(), frozen.hints.ascending()
    if frozen.replacing:
        replacing = signed(frozen.replacing)
        for hashes, references in (stored, hints):
            is_newer = is_among(hashes, replacing)
            newer = Columns(hashes[is_newer], references[is_newer])
            # What was evicted meanwhile is counted; the others are overwritten then.
            entries += _insert(db, known, newer)
            hashes_table.replace(db, *newer)
    entries += _insert(db, known, stored)
    entries += _insert(db, known, hints)
    return shrink(db, entries, capacity, generation, 2 * (entries - before))


def _insert(db: Connection, known: HashFilter, columns: Columns) -> int:
    values, references = columns
    if not len(values):
        return 0
    perhaps_there = known.may_have_each(values)
    known.add(values)
    return hashes_table.insert_new(db, values, references, perhaps_there)


def shrink(
    db: Connection, entries: int, capacity: int, generation: int, most: int = _MOST_AT_ONCE
) -> int:
    """Evict what the table, with `entries`, has too many, at `most` so many; return what is left.

    Where the bound was lowered the rest goes later: to drop tens of millions takes a minute.
    """
    if entries <= capacity:
        return entries
    start = xxh3_64_intdigest(generation.to_bytes(8, "little")) - _SIGN
    return entries - hashes_table.evict(db, start, min(entries - capacity, most))
