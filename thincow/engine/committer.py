"""Ends epochs and takes the outcome of their commits. Slow parts run in `Commit`.

Invariants:
- one commit at a time; what is running belongs to the next one;
- an epoch counts as durable, and what it freed becomes reusable, only after its commit said so; a
  failed one becomes part of the running epoch again;
- after a failed sync nothing is committed any more: a later success would prove nothing.
"""

import logging
import time
from contextlib import suppress
from typing import Final

from thincow.engine.commit import Commit
from thincow.engine.epoch import EpochParts
from thincow.engine.open_store import OpenStore
from thincow.engine.options import Tuning
from thincow.engine.space_return import SpaceReturn
from thincow.engine.space_watch import SpaceWatch
from thincow.engine.statistics import Statistics
from thincow.errors import CommitError, CorruptStoreError, NoSpaceError, StoreFailedError
from thincow.store import cow_table, globals_table
from thincow.store.connection import DatabaseError
from thincow.store.disk import Disk
from thincow.store.failure_mark import MARK_NAME, write_mark
from thincow.store.label import LabelFile

_log = logging.getLogger(__name__)

_SCAN_ROWS: Final = 4096
_BYTES_A_CHANGE: Final = 16384
_RETRY_S: Final = 0.2
"""Least time between attempts to end a lack of space."""
_SLOW_TRY_S: Final = 0.02
"""An attempt that takes longer makes the time to the next one longer in proportion."""


class Committer:
    """Commits of a store that is open for writing. For the thread that serves requests."""

    def __init__(
        self,
        disk: Disk,
        store: OpenStore,
        label: LabelFile,
        parts: EpochParts,
        statistics: Statistics,
        watch: SpaceWatch,
    ) -> None:
        """Commit the changes of `parts` to `store`."""
        self._disk = disk
        self._store = store
        self._label = label
        self._parts = parts
        self._statistics = statistics
        self._watch = watch
        self._running: Commit | None = None
        self._generation = store.facts.generation
        self.hash_entries = store.facts.hash_entries
        self.failed = False
        """A sync failed: nothing is committed any more."""
        self.no_space = False
        """The last commit failed, or needed the reserve: no write is taken until there is room."""
        self.space_return = SpaceReturn(parts.cow)
        self._next_try_s = 0.0
        self._scan_for_free_blocks()
        self._look_after_space()

    @property
    def is_running(self) -> bool:
        """Whether a commit has begun and not been finished."""
        return self._running is not None

    @property
    def is_dirty(self) -> bool:
        """Whether anything is not committed yet."""
        return self._running is not None or self._parts.is_dirty

    def exceeds(self, factor: int, tuning: Tuning) -> bool:
        """Tell whether the running epoch is `factor` times as large as a commit should be."""
        parts = self._parts
        reserve = self._watch.reserve
        if self._watch.keeps_commits_small and reserve is not None:
            # Each change may dirty a page of each of two tables, with room for as much again.
            changes = reserve.size_bytes // _BYTES_A_CHANGE
            if parts.block_map.changes > factor * changes:
                return True
        return (
            parts.cow.new_bytes > factor * tuning.commit_new_bytes
            or parts.block_map.windows.dirty_windows > factor * tuning.commit_dirty_windows
            or parts.cow.counts.dirty_windows > factor * tuning.commit_dirty_windows
            or parts.hashes.stored_entries > factor * tuning.commit_staged_hashes
        )

    def freeze(self, *, is_awaited: bool = False) -> Commit | None:
        """End the running epoch and return its commit; None when there is nothing to commit.

        While somebody waits for it (`is_awaited`), it leaves out what can be committed later.

        Raises:
            StoreFailedError: after a failed sync.
        """
        assert self._running is None, "one commit at a time"
        if self.failed:
            raise StoreFailedError("a sync of the store failed earlier: unmount and check it")
        if not (self._parts.must_commit if is_awaited else self.is_dirty):
            return None
        cow_file = self._store.cow_file
        self._running = Commit(
            epoch=self._parts.freeze(is_awaited=is_awaited),
            generation=self._generation + 1,
            entries=self.hash_entries,
            capacity=self._parts.hashes.capacity,
            hash_filter=self._parts.hashes.filter,
            checksum_bits=self._store.facts.checksum_bits,
            sync_contents=cow_file.unsynced,
            cow_file=cow_file,
            database=self._store.database,
            must_run_inline=not self._store.database.commits_may_run_in_thread,
            reserve=self._watch.reserve,
            is_space_low=self._watch.keeps_commits_small,
        )
        cow_file.unsynced = False
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
            self._fail(commit.error)
        self.no_space = commit.error is not None and not self.failed
        if commit.error is not None:
            raise commit.error
        self.no_space = not (self._watch.look_again() if commit.is_small else self._watch.look())

    def commit(self, *, patient: bool = True, merge_log: bool = False) -> None:
        """Make everything written so far durable; `patient` as in `Commit.run`.

        With `merge_log` all of it is in `metadata.db` then, unless a reader or a full disk hinders.

        Raises:
            CommitError: when it failed and may be tried again.
            StoreFailedError: when a sync failed, now or earlier.
        """
        commit = self.freeze()
        if commit is not None:
            commit.run(patient=patient)
            self.finish(commit)
        if merge_log:
            try:
                self._store.database.checkpoint_if_due(whole=True)
            except StoreFailedError as error:
                self._fail(error)
                raise

    def close(self) -> None:
        """Commit, give free space back, and say in the store that it was closed properly.

        Raises:
            CommitError, StoreFailedError: when something could not be written; what was committed
                before is kept.
        """
        # Nothing comes after this commit: it may use all there is.
        self._watch.give_up_reserve()
        self._parts.cow.held.end_all()
        self._parts.hashes.hurry()
        self.commit()
        if not self._store.was_closed:
            # A killed process leaves contents behind that nobody refers to.
            while self._parts.cow.scan_range is not None:
                self._scan_for_free_blocks()
        try:
            self._parts.cow.punch(max_runs=None)
        except OSError as error:
            _log.warning("free space of cowdata cannot be given back: %s", error.strerror)
        # The label must not be behind once the metadata say that all is closed.
        try:
            self._label.write(self._generation)
            self._label.sync()
        except OSError as error:
            _log.warning("cowdata.id: %s: the next open will check the store", error.strerror)
            return
        try:
            with self._store.database.transaction():
                globals_table.store(self._store.database.writer, {"clean": 1})
        except CommitError as error:
            # All changes are durable: this costs the next open a check, and nothing else.
            _log.warning("%s: the next open will check the store", error)

    def make_room(self) -> None:
        """Try to end a lack of space.

        Raises:
            NoSpaceError: when writes cannot be taken yet.
            StoreFailedError: when a sync failed meanwhile.
        """
        begin = time.monotonic()
        if not self.is_running and begin >= self._next_try_s:
            with suppress(CommitError):
                # Requests wait meanwhile, reads too.
                self.commit(patient=False)
                self._look_after_space()
            end = time.monotonic()
            self._next_try_s = end + _RETRY_S * max(1.0, (end - begin) / _SLOW_TRY_S)
        if self.no_space:
            error = NoSpaceError("there is no room for a commit: no write is taken until there is")
            self._watch.note_refusal(error)
            raise error

    def free_more(self) -> bool:
        """Commit if that makes blocks reusable; tell whether it did."""
        if self.is_running or self.failed or not self._parts.cow.has_freed:
            return False
        with suppress(CommitError):
            self.commit(patient=False)
            return True
        return False

    def _look_after_space(self) -> None:
        """Take the reserve back, and notice in time that space runs short."""
        self.no_space = not self._watch.look()

    def _fail(self, error: StoreFailedError) -> None:
        self.failed = True
        self._parts.cow.only_durable = True
        self._parts.hashes.stop_hints()
        if self._parts.checksums is not None:
            self._parts.checksums.keeps_new = False
        _log.critical(
            "%s: nothing is written any more in this mount, and what was not committed is lost; "
            "unmount, see to the disk, and run 'thincow fsck'",
            error,
        )
        try:
            write_mark(self._disk, self._store.paths.data_dir, str(error))
        except OSError as problem:
            _log.critical("the mark %s cannot be left: %s", MARK_NAME, problem.strerror)

    def _settle(self, commit: Commit) -> None:
        parts = self._parts
        self._generation = commit.generation
        self.hash_entries = commit.entries
        self._statistics.commits += 1
        self._store.database.catch_up()
        parts.settle(commit.epoch)
        try:
            self._label.write_if_room(commit.generation)
            # Before the look at the space, which decides whether writes are taken.
            self.space_return.after_commit(at_once=self.no_space or self._watch.lacks_reserve)
        except OSError as error:
            _log.warning("cowdata cannot be tidied up: %s", error.strerror)
        try:
            self._scan_for_free_blocks()
        except (DatabaseError, CorruptStoreError) as error:
            # The commit is durable; without these blocks there is only less room.
            _log.error("free blocks of earlier mounts cannot be found: %s", error)
            parts.cow.end_scan()

    def _merge_back(self, commit: Commit) -> None:
        self._parts.merge_back(commit.epoch)
        if commit.sync_contents:
            self._store.cow_file.unsynced = True

    def _scan_for_free_blocks(self) -> None:
        cow = self._parts.cow
        area = cow.scan_range
        if area is not None:
            gaps, scanned_to = cow_table.gaps(self._store.database.reader, *area, _SCAN_ROWS)
            cow.add_scanned(gaps, scanned_to, holding=not self._store.was_closed)
