"""The engine: virtual devices over an open store. Synchronous, and free of any front end.

All methods are for one thread, except `Commit.run` and `Fetch.run`. A call is atomic: it changes
nothing when it raises.
"""

import logging

from thincow.engine.block_map import BlockMap
from thincow.engine.block_reader import BlockReader
from thincow.engine.block_writer import BlockWriter
from thincow.engine.checksums import Checksums
from thincow.engine.commit import Commit
from thincow.engine.committer import Committer
from thincow.engine.contents import Contents
from thincow.engine.cow_store import CowStore
from thincow.engine.deduplication import Deduplication
from thincow.engine.device import Device
from thincow.engine.epoch import EpochParts
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.flush_control import FlushControl, flush_source, flush_tools
from thincow.engine.hash_index import HashIndex
from thincow.engine.open_errors import in_one_line
from thincow.engine.open_store import OpenStore, open_store
from thincow.engine.options import StoreOptions, hash_capacity
from thincow.engine.seen_blocks import SeenBlocks
from thincow.engine.space_watch import SpaceWatch
from thincow.engine.statistics import Statistics
from thincow.engine.store_files import remove_contents
from thincow.engine.store_windows import open_windows
from thincow.engine.upstream_state import UpstreamState
from thincow.errors import CorruptStoreError, NoSpaceError, ReadOnlyError, StoreFailedError
from thincow.store import cow_table
from thincow.store.connection import DatabaseError
from thincow.store.disk import Disk
from thincow.store.snapshot import Snapshot

_log = logging.getLogger(__name__)


def open_engine(options: StoreOptions, disk: Disk | None = None) -> "Engine":
    """Open or create a store and serve its devices.

    Raises:
        ThincowError: when anything forbids; then nothing was created or changed.
    """
    with in_one_line(options.data_dir):
        store = open_store(options, disk := disk or Disk())
        try:
            return Engine(store, options, disk)
        except BaseException:
            store.close(keep_log=True)
            raise


class Engine:
    """Reads, writes and commits. Made by `open_engine`."""

    def __init__(self, store: OpenStore, options: StoreOptions, disk: Disk) -> None:
        """Build the parts over an open store."""
        self._store = store
        self.options = options
        self.read_only = options.read_only
        self.store_id = store.facts.store_id
        self.block_size = store.facts.block_size
        self.devices = tuple(d for d in store.devices if d.upstream is not None)
        self.statistics = Statistics()
        self._build(store, options, disk)
        self._spare_fetch = self._contents.new_fetch()

    def _build(self, store: OpenStore, options: StoreOptions, disk: Disk) -> None:
        reader = store.database.reader
        block_size = self.block_size
        self._windows = references, counts, sums = open_windows(
            reader, store.facts.window_blocks, options.tuning
        )
        self._cow = CowStore(
            store.cow_file, counts, block_size, cow_table.end_block(reader), options.max_cow_blocks
        )
        self.holds = self._cow.held
        self._map = BlockMap(references, self._cow)
        by_id = {device.id: device for device in store.devices}
        upstream = UpstreamState(store.marks)
        self._contents = Contents(disk, by_id, self._cow, upstream, block_size)
        self._hashes = HashIndex(
            reader,
            block_size,
            hash_capacity(options),
            store.facts.hash_entries,
            2 * options.tuning.commit_staged_hashes,
        )
        bits = store.facts.checksum_bits
        checksums = Checksums(sums, bits, keeps_new=not self.read_only) if bits else None
        seen = SeenBlocks()
        self._reader = BlockReader(
            self._map,
            self._contents,
            None if self.read_only else self._hashes,
            seen,
            checksums,
            self.statistics,
            block_size,
        )
        self._watch = SpaceWatch(disk, store.paths.directories, store.reserve, options.tuning)
        self._committer: Committer | None = None
        tools = None
        if store.label is not None:
            parts = EpochParts(self._map, self._cow, self._hashes, checksums, upstream)
            self._committer = Committer(
                disk, store, store.label, parts, self.statistics, self._watch
            )
            if not options.read_only_upstream and (store.paths.database or options.force):
                tools = flush_tools(disk, store, self._committer, parts, self._contents)
        self.flush = FlushControl(tools, self.devices, flush_source(disk, store))
        self.status = self.flush.status
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
            checksums,
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
            self._spare_fetch = self._contents.new_fetch()
            raise
        except (DatabaseError, CorruptStoreError) as error:
            raise _store_failed("metadata.db cannot be read", str(error)) from error

    def write(self, device: Device, offset: int, data: bytes, fetch: Fetch | None = None) -> int:
        """Write bytes at byte `offset`; return how many, fewer at the end of the device.

        Raises:
            WouldBlock: when contents have to be fetched first; as for `read`.
            PastEndError: when the write starts at or past the end.
            NoSpaceError: when a quota is reached, a filesystem is full, or the last commit failed.
            ReadOnlyError: when the store is open for reading only.
            BlockReadError: when a block that is written in part cannot be read.
            StoreFailedError: after a failed sync, or when the store cannot be read or written.
        """
        if self._committer is None:
            raise ReadOnlyError("the store is mounted read-only")
        if self._committer.failed:
            raise StoreFailedError("a sync of the store failed earlier: unmount and check it")
        if self._committer.no_space:
            self._committer.make_room()
        self._trim()
        try:
            return self._writer.write(device, offset, bytes(data), fetch or self._spare_fetch)
        except WouldBlock:
            self._spare_fetch = self._contents.new_fetch()
            raise
        except NoSpaceError as error:
            if self._committer.free_more():
                return self.write(device, offset, data, fetch)
            self._watch.note_refusal(error)
            raise
        except (DatabaseError, CorruptStoreError) as error:
            raise _store_failed("metadata.db cannot be read", str(error)) from error
        except OSError as error:
            raise _store_failed("cowdata cannot be written", error.strerror) from error

    @property
    def failed(self) -> bool:
        """Whether a sync of the store failed: nothing is committed any more."""
        return self._committer is not None and self._committer.failed

    @property
    def is_dirty(self) -> bool:
        """Whether anything is not committed yet."""
        return self._committer is not None and self._committer.is_dirty

    @property
    def commit_due(self) -> bool:
        """Whether so much has changed that a commit should begin."""
        return self._committer is not None and self._committer.exceeds(1, self.options.tuning)

    @property
    def hints_waiting(self) -> int:
        """Number of hash entries that wait for a commit."""
        return self._hashes.staged_entries

    @property
    def hints_due(self) -> bool:
        """Whether so much was read that a commit should begin; cheap enough for every read."""
        return self._hashes.staged_entries > self.options.tuning.commit_staged_hashes

    @property
    def must_wait(self) -> bool:
        """Whether writers should wait for the running commit."""
        committer = self._committer
        return (
            committer is not None
            and committer.is_running
            and committer.exceeds(2, self.options.tuning)
        )

    def freeze(self) -> Commit | None:
        """End the running epoch and return its commit; None when there is nothing to commit.

        Raises:
            StoreFailedError: after a failed sync.
        """
        return None if self._committer is None else self._committer.freeze()

    def finish(self, commit: Commit) -> None:
        """Take the outcome of a commit that was run.

        Raises:
            CommitError: when it failed and may be tried again; its changes are kept.
            StoreFailedError: when a sync failed: nothing is committed any more.
        """
        assert self._committer is not None
        self._committer.finish(commit)

    def commit(self, *, merge_log: bool = False) -> None:
        """Make everything written so far durable; `merge_log`: see `Committer.commit`.

        Raises:
            CommitError: when it failed and may be tried again.
            StoreFailedError: when a sync failed, now or earlier.
        """
        if self._committer is not None:
            self._committer.commit(merge_log=merge_log)

    def snapshot(self) -> Snapshot:
        """Return a view of everything written so far, for one other thread.

        Raises:
            CommitError, StoreFailedError: when it cannot be committed first, or not be read.
        """
        committer = self._committer
        if committer is not None and not committer.failed and not committer.is_running:
            committer.commit()
        return Snapshot(self._store.database.open_snapshot())

    def cow_usage(self) -> tuple[int, int, int, int]:
        """Return blocks up to the end of `cowdata`, free, used, and references, as committed."""
        used, references = cow_table.totals(self._store.database.reader)
        end = max(self._cow.end_block, used)
        return end, end - used, used, references

    def hash_usage(self) -> tuple[int, int]:
        """Return the number of hash entries in the table, and how many it may hold."""
        return (self._committer or self._store.facts).hash_entries, self._hashes.capacity

    def close(self) -> None:
        """Commit, tidy up and close everything.

        Raises:
            CommitError, StoreFailedError: when the last changes could not be committed; all is
                closed nevertheless, and what was committed before is kept.
        """
        try:
            if self._committer is not None and not self._committer.failed:
                self._committer.close()
        except BaseException:
            self._store.close(keep_log=True)
            raise
        self._store.close(keep_log=self.failed)
        if self._store.paths.database is None and not self.read_only:
            remove_contents(self._store.paths)

    def _trim(self) -> None:
        for windows in self._windows:
            if windows.has_grown:
                windows.trim()


def _store_failed(what: str, why: str | None) -> StoreFailedError:
    """Log a failure of the store, of which a client sees no more than an errno."""
    _log.error("%s: %s", what, why)
    return StoreFailedError(f"{what}: {why}")
