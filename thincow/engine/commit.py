"""One commit: a frozen epoch, and how it becomes durable.

Contents first: `cowdata` is synced before the transaction that refers to it. `run` touches nothing
that requests use, so it may run in another thread meanwhile.
"""

import errno
import logging
import time
from dataclasses import dataclass, field

from thincow.engine import checksums as checksum_rows
from thincow.engine import hash_index
from thincow.engine.free_runs import Run
from thincow.engine.hash_filter import HashFilter
from thincow.engine.hash_index import FrozenHashes
from thincow.engine.runs import CountCodec, Int64Array, ReferenceCodec, RowChanges, row_changes
from thincow.engine.upstream_state import FrozenUpstream
from thincow.engine.window_cache import FrozenWindow
from thincow.errors import CommitError, CorruptStoreError, DatabaseBusyError, StoreFailedError
from thincow.store import (
    cow_table,
    devices_table,
    extents_table,
    flushing_table,
    globals_table,
    hashes_table,
)
from thincow.store.connection import DatabaseError, set_patience
from thincow.store.cow_file import CowFile
from thincow.store.database import Database
from thincow.store.globals_table import ENTRIES_LOST
from thincow.store.space_reserve import SpaceReserve

_log = logging.getLogger(__name__)

_SMALL_WINDOWS = 32
_SMALL_HASHES = 256
_FILTER_ROWS = 1 << 17
_FILTER_ROWS_SMALL = 1 << 10
_REFERENCES = ReferenceCodec()
_COUNTS = CountCodec()


@dataclass(slots=True)
class Epoch:
    """Changes of one epoch, frozen."""

    references: list[FrozenWindow]
    counts: list[FrozenWindow]
    checksums: list[FrozenWindow]
    freed: list[Run]
    hashes: FrozenHashes
    upstream: FrozenUpstream


@dataclass(slots=True)
class Commit:
    """Makes one epoch durable.

    `entries` is the size of the hash table, before and after. `sync_contents`: contents were
    written that no sync has covered yet. `reserve` is given up when the disk is full.
    """

    epoch: Epoch
    generation: int
    entries: int
    capacity: int
    hash_filter: HashFilter
    checksum_bits: int
    sync_contents: bool
    cow_file: CowFile
    database: Database
    must_run_inline: bool
    reserve: SpaceReserve | None
    is_space_low: bool
    error: CommitError | StoreFailedError | None = field(default=None)
    is_durable: bool = False
    seconds: float = 0.0

    @property
    def is_small(self) -> bool:
        """Whether running it takes less than handing it to another thread."""
        if self.must_run_inline:
            return True
        epoch = self.epoch
        windows = len(epoch.references) + len(epoch.counts) + len(epoch.checksums)
        return windows <= _SMALL_WINDOWS and epoch.hashes.count <= _SMALL_HASHES

    @property
    def is_busy(self) -> bool:
        """Whether it failed because somebody else is writing: it may be run again."""
        return isinstance(self.error, DatabaseBusyError)

    def run(self, *, patient: bool = True) -> None:
        """Do the slow part, in any one thread. What fails is left in `error`.

        With `patient` it waits some time for somebody else who is writing.
        """
        begin = time.perf_counter()
        self.error = None
        set_patience(self.database.writer, patient=patient)
        try:
            if self.sync_contents:
                self.cow_file.sync()
            self._write_somehow()
            self.is_durable = True
            self.database.checkpoint_if_due(soon=self.is_space_low)
            self._build_filter()
        except (CommitError, StoreFailedError) as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - whatever it was
            # The transaction was rolled back; to end without an outcome would lose the epoch.
            _log.exception("a commit ended unexpectedly")
            self.error = CommitError(f"unexpected error in a commit: {error!r}", errno.EIO)
        finally:
            set_patience(self.database.writer, patient=True)
        self.seconds = time.perf_counter() - begin

    def _build_filter(self) -> None:
        rows = _FILTER_ROWS_SMALL if self.is_small else _FILTER_ROWS
        try:
            self.hash_filter.build(self.database.writer, self.entries, rows)
        except (DatabaseError, CorruptStoreError) as error:
            # What it does not cover is looked up.
            _log.debug("the filter of hashes cannot be built: %s", error)

    def _write_somehow(self) -> None:
        """Write; when space is short, without hash entries (they are hints) and from the reserve.

        Raises:
            CommitError, StoreFailedError: when all of it failed.
        """
        try:
            self._write(with_hashes=True)
        except CommitError as error:
            if error.code != errno.ENOSPC or isinstance(error, DatabaseBusyError):
                raise
            if self.reserve is not None:
                try:
                    self.reserve.release()
                except OSError as problem:
                    _log.error("the reserve cannot be given up: %s", problem.strerror)
            self._write(with_hashes=False)

    def _write(self, *, with_hashes: bool) -> None:
        db = self.database.writer
        epoch = self.epoch
        entries = self.entries
        with self.database.transaction():
            for part in epoch.references:
                extents_table.apply_changes(db, *_flat(_changes_of_references(part)))
            for part in epoch.counts:
                cow_table.apply_changes(db, *_flat(_changes_of_counts(part)))
            self._write_upstream()
            checksum_rows.write(db, epoch.checksums, self.checksum_bits)
            facts: dict[str, str | int] = {"generation": self.generation}
            is_lost = epoch.hashes.count > 0 and not with_hashes
            for first, end in epoch.upstream.forgotten:
                dropped = hashes_table.drop_upstream(db, first, end)
                entries -= dropped
                is_lost |= dropped > 0
                devices_table.store_fingerprints(db, first, end, {})
            if epoch.upstream.drops_hashes:
                dropped = hashes_table.drop_overwritten(db)
                entries -= dropped
                is_lost |= dropped > 0
            if with_hashes and epoch.hashes.count:
                entries = hash_index.write(
                    db, epoch.hashes, self.hash_filter, entries, self.capacity, self.generation
                )
            if is_lost or entries >= self.capacity:
                facts[ENTRIES_LOST] = 1
            if entries != self.entries:
                facts["hash_entries"] = entries
            globals_table.store(db, facts)
        self.entries = entries

    def _write_upstream(self) -> None:
        db, upstream = self.database.writer, self.epoch.upstream
        if upstream.marks is not None:
            flushing_table.replace(db, upstream.marks)
        devices_table.store(db, upstream.rows.values())
        devices_table.update_fingerprints(db, upstream.fingerprints)


def _changes_of_references(part: FrozenWindow) -> RowChanges:
    first = part.window.first_block
    return row_changes(_REFERENCES, first, part.base, part.values, part.low, part.high)


def _changes_of_counts(part: FrozenWindow) -> RowChanges:
    first = part.window.first_block
    return row_changes(_COUNTS, first, part.base, part.values, part.low, part.high)


def _flat(changes: RowChanges) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    return (changes.removed, *changes.upserted)
