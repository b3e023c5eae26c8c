"""The engine: virtual devices over an open store. Synchronous, and free of any front end.

All methods are for one thread, except `Commit.run` and `Fetch.run`. A call is atomic: it changes
nothing when it raises.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

from thincow.engine.assembly import assemble
from thincow.engine.commit import Commit
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.open_errors import in_one_line
from thincow.engine.open_store import OpenStore, open_store
from thincow.engine.options import StoreOptions
from thincow.engine.statistics import Statistics
from thincow.engine.store_files import remove_contents
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
        self.devices = tuple(device for device in store.devices if device.is_served)
        self.statistics = Statistics()
        self._parts = parts = assemble(store, options, disk, self.statistics)
        self._windows = parts.windows
        self._cow = parts.cow
        self.holds = parts.cow.held
        self._contents = parts.contents
        self._hashes = parts.hashes
        self._reader = parts.reader
        self._resizer = parts.resizer
        self._upstream = parts.upstream
        self._watch = parts.watch
        self._committer = parts.committer
        self.flush = parts.flush
        self.status = parts.flush.status
        self.space_return = None if self._committer is None else self._committer.space_return
        self._spare_fetch = parts.contents.new_fetch()

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
        """Write bytes at byte `offset`; return how many, fewer at the end of what can be.

        A device that is not a block device grows when the write goes past its end.

        Raises:
            WouldBlock: when contents have to be fetched first; as for `read`.
            PastEndError, TooLargeError: when the write starts where the device can have no byte.
            NoSpaceError: when a quota is reached, a filesystem is full, or the last commit failed.
            ReadOnlyError: when the store is open for reading only.
            BlockReadError: when a block that is written in part cannot be read.
            StoreFailedError: after a failed sync, or when the store cannot be read or written.
        """
        content = bytes(data)
        return self._change(
            lambda found: self._resizer.write(device, offset, content, found), fetch
        )

    def resize(self, device: Device, size_bytes: int, fetch: Fetch | None = None) -> int:
        """Grow a device with zeros or cut it; return its size then.

        A large cut takes several calls: go on until the size is the one that was wanted.

        Raises:
            FixedSizeError: when it is a block device.
            RequestError: otherwise as for `write`.
        """
        return self._change(lambda found: self._resizer.resize(device, size_bytes, found), fetch)

    def set_attributes(
        self,
        device: Device,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        modified_ns: int | None = None,
    ) -> None:
        """Change what is shown of a device; None leaves a value as it is.

        Raises:
            ReadOnlyError: when the store is open for reading only.
        """
        if self._committer is None:
            raise ReadOnlyError("the store is mounted read-only")
        row = device.row
        row = replace(
            row,
            mode=row.mode if mode is None else mode,
            uid=row.uid if uid is None else uid,
            gid=row.gid if gid is None else gid,
            modified_ns=row.modified_ns if modified_ns is None else modified_ns,
        )
        device.update(row)
        self._upstream.update_row(row)

    def _change(self, call: Callable[[Fetch], int], fetch: Fetch | None) -> int:
        """Make a call that changes something, if that may be; translate what it fails with."""
        if self._committer is None:
            raise ReadOnlyError("the store is mounted read-only")
        if self._committer.failed:
            raise StoreFailedError("a sync of the store failed earlier: unmount and check it")
        if self._committer.no_space:
            self._committer.make_room()
        self._trim()
        try:
            return call(fetch or self._spare_fetch)
        except WouldBlock:
            self._spare_fetch = self._contents.new_fetch()
            raise
        except NoSpaceError as error:
            if self._committer.free_more():
                return self._change(call, fetch)
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
        committer, tuning = self._committer, self.options.tuning
        return committer is not None and (self.hints_due or committer.exceeds(1, tuning))

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
        committer, tuning = self._committer, self.options.tuning
        return committer is not None and committer.is_running and committer.exceeds(2, tuning)

    def freeze(self, *, is_awaited: bool = False) -> Commit | None:
        """End the running epoch and return its commit; None when there is nothing to commit.

        While somebody waits (`is_awaited`), hash entries that can wait are left out, if few.

        Raises:
            StoreFailedError: after a failed sync.
        """
        if self._committer is None:
            return None
        return self._committer.freeze(is_awaited=is_awaited)

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

    def allocated_bytes(self, device: Device) -> int:
        """Return about how much space the only device takes: upstream's as far as shown, and ours.

        Costs no look at the database.
        """
        size = self.block_size
        shown = (device.own_end - device.first_block) * size
        if device.upstream is not None:
            shown = min(shown, device.upstream.allocated_bytes())
        stored = (self._cow.end_block - self._cow.reusable_blocks) * size
        return min(device.size_bytes, shown + stored)

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
