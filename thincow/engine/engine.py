"""The engine: virtual devices over an open store. Synchronous, and free of any front end.

All methods are for one thread, except `Commit.run` and `Fetch.run`. A call is atomic: it changes
nothing when it raises.
"""

import logging
from typing import Final

from thincow.engine import checksums as checksum_windows
from thincow.engine.block_map import BlockMap
from thincow.engine.block_reader import BlockReader
from thincow.engine.block_writer import BlockWriter
from thincow.engine.checksums import Checksums
from thincow.engine.commit import Commit, Epoch
from thincow.engine.contents import Contents
from thincow.engine.cow_store import CowStore
from thincow.engine.deduplication import Deduplication
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.hash_index import HashIndex
from thincow.engine.open_store import OpenStore, open_store
from thincow.engine.options import HASH_ENTRY_BYTES, StoreOptions
from thincow.engine.runs import CountCodec, Int64Array, ReferenceCodec
from thincow.engine.seen_blocks import SeenBlocks
from thincow.engine.statistics import Statistics
from thincow.engine.window_cache import WindowCache
from thincow.errors import NoSpaceError, ReadOnlyError, StoreFailedError
from thincow.store import checksums_table, connection, cow_table, extents_table, globals_table
from thincow.store.connection import Connection, DatabaseError
from thincow.store.disk import Disk
from thincow.store.snapshot import Snapshot

_log = logging.getLogger(__name__)

_SCAN_ROWS: Final = 4096
_PUNCH_RUNS: Final = 256
_PUNCH_AFTER_BYTES: Final = 1 << 20


def open_engine(options: StoreOptions, disk: Disk | None = None) -> "Engine":
    """Open or create a store and serve its devices.

    Raises:
        ThincowError: when anything forbids; then nothing was created or changed.
    """
    chosen = disk or Disk()
    store = open_store(options, chosen)
    try:
        return Engine(store, options, chosen)
    except BaseException:
        store.close(keep_log=True)
        raise


class Engine:
    """Reads, writes and commits. Made by `open_engine`."""

    def __init__(self, store: OpenStore, options: StoreOptions, disk: Disk) -> None:
        """Build the parts over an open store."""
        self._store = store
        self._tuning = options.tuning
        self.options = options
        self.read_only = options.read_only
        self.block_size = store.facts.block_size
        self.devices = tuple(d for d in store.devices if d.upstream is not None)
        self.statistics = Statistics()
        self.failed = False
        self._no_space = False
        self._running: Commit | None = None
        self._generation = store.facts.generation
        self._hash_entries = store.facts.hash_entries
        self._hash_capacity = max(1, options.hash_table_bytes // HASH_ENTRY_BYTES)
        self._build(store, options, disk)
        self._spare_fetch = self._contents.new_fetch()
        self._scan_for_free_blocks()

    def _build(self, store: OpenStore, options: StoreOptions, disk: Disk) -> None:
        reader = store.database.reader
        block_size = self.block_size
        references, counts, sums = _windows(reader, store.facts.window_blocks, options)
        self._cow = CowStore(
            store.cow_file,
            counts,
            block_size,
            cow_table.end_block(reader),
            options.max_cow_blocks,
        )
        self._map = BlockMap(references, self._cow)
        by_id = {device.id: device for device in store.devices}
        self._contents = Contents(disk, by_id, self._cow, block_size)
        self._hashes = HashIndex(reader, block_size, self._hash_capacity)
        bits = store.facts.checksum_bits
        self._checksums = Checksums(sums, bits) if bits else None
        seen = SeenBlocks()
        self._reader = BlockReader(
            self._map,
            self._contents,
            None if self.read_only else self._hashes,
            seen,
            self._checksums,
            self.statistics,
            block_size,
        )
        self._writer = BlockWriter(
            self._map,
            self._cow,
            self._reader,
            Deduplication(
                self._map,
                self._contents,
                self._hashes,
                seen,
                block_size,
                retroactive=options.retroactive,
            ),
            self._hashes,
            self._checksums,
            self.statistics,
            block_size,
        )

    def read(
        self, device: Device, offset: int, length: int, fetch: Fetch | None = None
    ) -> bytes | memoryview:
        """Read `length` bytes from byte `offset`; fewer at the end or before a bad block.

        The result is valid until the next call. After `WouldBlock`, run its fetch and call again
        with it.

        Raises:
            WouldBlock: when contents have to be fetched first.
            BlockReadError, ChecksumError: when the first block cannot be read.
            StoreFailedError: when the store's own metadata cannot be read.
        """
        self._trim()
        try:
            return self._reader.read(device, offset, length, fetch or self._spare_fetch)
        except WouldBlock:
            self._replace_spare_fetch()
            raise
        except DatabaseError as error:
            raise StoreFailedError(f"metadata.db cannot be read: {error}") from error

    def write(self, device: Device, offset: int, data: bytes, fetch: Fetch | None = None) -> int:
        """Write bytes at byte `offset`; return how many, fewer at the end of the device.

        After `WouldBlock`, run its fetch and call again with it.

        Raises:
            WouldBlock: when contents have to be fetched first.
            PastEndError: when the write starts at or past the end.
            NoSpaceError: when a quota is reached, a filesystem is full, or the last commit failed.
            ReadOnlyError: when the store is open for reading only.
            BlockReadError: when a block that is written in part cannot be read.
            StoreFailedError: after a failed sync, or when the store cannot be read or written.
        """
        if self.read_only:
            raise ReadOnlyError("the store is mounted read-only")
        if self.failed:
            raise StoreFailedError("a sync of the store failed earlier: unmount and check it")
        if self._no_space:
            raise NoSpaceError("the last commit failed: no write is taken until one succeeds")
        self._trim()
        try:
            return self._writer.write(device, offset, bytes(data), fetch or self._spare_fetch)
        except WouldBlock:
            self._replace_spare_fetch()
            raise
        except DatabaseError as error:
            raise StoreFailedError(f"metadata.db cannot be read: {error}") from error
        except OSError as error:
            raise StoreFailedError(f"cowdata cannot be written: {error.strerror}") from error

    @property
    def is_dirty(self) -> bool:
        """Whether anything is not committed yet."""
        return not self.read_only and (
            self._running is not None
            or self._map.windows.dirty_windows > 0
            or self._cow.counts.dirty_windows > 0
            or self._hashes.staged_entries > 0
            or (self._checksums is not None and self._checksums.windows.dirty_windows > 0)
        )

    @property
    def commit_due(self) -> bool:
        """Whether so much has changed that a commit should begin."""
        return self._exceeds(1)

    @property
    def must_wait(self) -> bool:
        """Whether writers should wait for the running commit."""
        return self._running is not None and self._exceeds(2)

    def freeze(self) -> Commit | None:
        """End the running epoch and return its commit; None when there is nothing to commit.

        Raises:
            StoreFailedError: after a failed sync.
        """
        assert self._running is None, "one commit at a time"
        if self.failed:
            raise StoreFailedError("a sync of the store failed earlier: unmount and check it")
        if not self.is_dirty:
            return None
        counts, freed = self._cow.freeze()
        checksums = self._checksums
        epoch = Epoch(
            references=self._map.freeze(),
            counts=counts,
            checksums=checksums.windows.freeze() if checksums is not None else [],
            freed=freed,
            hashes=self._hashes.freeze(),
        )
        cow_file = self._store.cow_file
        self._running = Commit(
            epoch=epoch,
            generation=self._generation + 1,
            entries=self._hash_entries,
            capacity=self._hash_capacity,
            checksum_bits=self._store.facts.checksum_bits,
            sync_contents=cow_file.unsynced,
            cow_file=cow_file,
            database=self._store.database,
            must_run_inline=not self._store.database.commits_may_run_in_thread,
        )
        cow_file.unsynced = False
        self._writer.new_bytes = 0
        return self._running

    def finish(self, commit: Commit) -> None:
        """Take the outcome of a commit that was run.

        Raises:
            CommitError: when it failed and may be tried again; its changes are kept.
            StoreFailedError: when a sync failed: nothing is committed any more.
        """
        assert commit is self._running
        self._running = None
        if commit.is_durable:
            self._settle(commit)
        else:
            self._merge_back(commit)
        if isinstance(commit.error, StoreFailedError):
            self.failed = True
            _log.critical("%s; nothing is written any more: unmount and check", commit.error)
        if commit.error is not None:
            self._no_space = not self.failed
            raise commit.error
        self._no_space = False

    def commit(self) -> None:
        """Make everything written so far durable.

        Raises:
            CommitError: when it failed and may be tried again.
            StoreFailedError: when a sync failed, now or earlier.
        """
        commit = self.freeze()
        if commit is not None:
            commit.run()
            self.finish(commit)

    def status(self) -> str:
        """Return `clean` when every block is its own upstream block, else `ready`."""
        if self._map.windows.dirty_windows or self._running is not None:
            return "ready"
        return "clean" if extents_table.is_empty(self._store.database.reader) else "ready"

    def snapshot(self) -> Snapshot:
        """Return a view of everything written so far, for one other thread.

        Raises:
            CommitError, StoreFailedError: when it cannot be committed first.
        """
        if not self.read_only and not self.failed and self._running is None:
            self.commit()
        return Snapshot(self._store.database.open_snapshot())

    def cow_usage(self) -> tuple[int, int, int, int]:
        """Return blocks up to the end of `cowdata`, free, used, and references, as committed."""
        used, references = cow_table.totals(self._store.database.reader)
        end = max(self._cow.end_block, used)
        return end, end - used, used, references

    def hash_usage(self) -> tuple[int, int]:
        """Return the number of hash entries in the table, and how many it may hold."""
        return self._hash_entries, self._hash_capacity

    def close(self) -> None:
        """Commit, tidy up and close everything.

        Raises:
            CommitError, StoreFailedError: when the last changes could not be committed; all is
                closed nevertheless, and what was committed before is kept.
        """
        try:
            if not self.read_only and not self.failed:
                self._finish_store()
        except BaseException:
            self._store.close(keep_log=True)
            raise
        self._store.close(keep_log=self.failed)
        if self._store.paths.database is None and not self.read_only:
            self._remove_contents()

    def _finish_store(self) -> None:
        self.commit()
        assert self._store.label is not None
        self._cow.punch(max_runs=None)
        # The label must not be behind once the metadata say that all is closed.
        self._store.label.write(self._generation)
        self._store.label.sync()
        with connection.transaction(self._store.database.writer):
            globals_table.store(self._store.database.writer, {"clean": 1})

    def _remove_contents(self) -> None:
        for name in ("cowdata", "cowdata.id"):
            (self._store.paths.data_dir / name).unlink(missing_ok=True)

    def _settle(self, commit: Commit) -> None:
        epoch = commit.epoch
        self._generation = commit.generation
        self._hash_entries = commit.entries
        self.statistics.commits += 1
        self._map.windows.settle(epoch.references)
        self._cow.settle(epoch.counts, epoch.freed)
        if self._checksums is not None:
            self._checksums.windows.settle(epoch.checksums)
        self._hashes.settle()
        assert self._store.label is not None
        try:
            self._store.label.write(commit.generation)
            if self._cow.holding_bytes > _PUNCH_AFTER_BYTES:
                self._cow.punch(_PUNCH_RUNS)
        except OSError as error:
            _log.warning("cowdata cannot be tidied up: %s", error.strerror)
        self._scan_for_free_blocks()

    def _merge_back(self, commit: Commit) -> None:
        epoch = commit.epoch
        self._map.windows.merge_back(epoch.references)
        self._cow.merge_back(epoch.counts, epoch.freed)
        if self._checksums is not None:
            self._checksums.windows.merge_back(epoch.checksums)
        self._hashes.merge_back(epoch.hashes)
        if commit.sync_contents:
            self._store.cow_file.unsynced = True

    def _scan_for_free_blocks(self) -> None:
        area = self._cow.scan_range
        if area is not None and not self.read_only:
            self._cow.add_scanned(*cow_table.gaps(self._store.database.reader, *area, _SCAN_ROWS))

    def _exceeds(self, factor: int) -> bool:
        tuning = self._tuning
        return (
            self._writer.new_bytes > factor * tuning.commit_new_bytes
            or self._map.windows.dirty_windows > factor * tuning.commit_dirty_windows
            or self._cow.counts.dirty_windows > factor * tuning.commit_dirty_windows
            or self._hashes.staged_entries > factor * tuning.commit_staged_hashes
        )

    def _trim(self) -> None:
        self._map.windows.trim()
        self._cow.counts.trim()
        if self._checksums is not None:
            self._checksums.windows.trim()

    def _replace_spare_fetch(self) -> None:
        if self._spare_fetch.is_waiting:
            self._spare_fetch = self._contents.new_fetch()


def _windows(
    reader: Connection, window_blocks: int, options: StoreOptions
) -> tuple[WindowCache, WindowCache, WindowCache]:
    """Return the caches of references, counts and checksums."""
    references, counts = ReferenceCodec(), CountCodec()

    def load_references(first_block: int, length: int) -> Int64Array:
        values = references.default(first_block, length)
        extents_table.load_window(reader, first_block, values)
        return values

    def load_counts(first_block: int, length: int) -> Int64Array:
        values = counts.default(first_block, length)
        cow_table.load_window(reader, first_block, values)
        return values

    def load_checksums(first_block: int, length: int) -> Int64Array:
        values = checksum_windows.default_window(length)
        checksums_table.load_window(reader, first_block, values)
        return values

    capacity = options.tuning.cached_windows
    return (
        WindowCache(load_references, window_blocks, capacity),
        WindowCache(load_counts, window_blocks, capacity),
        WindowCache(load_checksums, window_blocks, capacity),
    )
