"""Planted bugs in flushing, registered beside the others. See `mutations`."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tests.crash.mutations import MUTATIONS, mutation
from tests.crash.setting import Setting, do_nothing, patched
from thincow.engine import open_identity
from thincow.engine.block_ranges import BlockRanges
from thincow.engine.contents import Contents
from thincow.engine.flush import Flush
from thincow.engine.flush_selection import FlushSelector
from thincow.engine.flush_steps import Step
from thincow.engine.flush_write import BatchWrite
from thincow.engine.upstream_state import UpstreamState
from thincow.store import flushing_table, globals_table, hashes_table
from thincow.store.upstream_writer import UpstreamWriter

__all__ = ["MUTATIONS"]


def _flushing(setting: Setting) -> Setting:
    """Flush often, in a store that has room for copies and knows what it has seen.

    Sizes stay: what was cut is in nobody's way.
    """
    options = replace(setting.options, max_cow_blocks=None, hash_table_bytes=4096)
    return replace(
        setting,
        steps=60,
        flushes=40.0,
        truncates=0.0,
        options=options,
        spare_blocks=None,
        fails_copies=0.0,
    )


def _cut_often(setting: Setting) -> Setting:
    """Let sessions that follow a cut in a flush begin flushes of their own."""
    return replace(_flushing(setting), steps=15, recoveries=20, recovery_steps=12)


def _failing(setting: Setting) -> Setting:
    return replace(_flushing(setting), fails_upstream=0.4)


@mutation(_flushing, states=120)
def flushed_block_identity_before_the_sync() -> Iterator[None]:
    """Upstream is synced only when it is closed, after the commits."""

    def wrong(self: UpstreamWriter) -> None:
        right_sync(self)
        right_close(self)

    right_sync, right_close = UpstreamWriter.sync, UpstreamWriter.close
    with patched(UpstreamWriter, "sync", do_nothing), patched(UpstreamWriter, "close", wrong):
        yield


@mutation(_flushing, states=120)
def flushed_block_identity_without_a_sync() -> Iterator[None]:
    with patched(UpstreamWriter, "sync", do_nothing):
        yield


@mutation(_flushing, states=120)
def modification_time_not_synced() -> Iterator[None]:
    """To fdatasync is not enough: the next open compares the time."""

    def wrong(self: UpstreamWriter) -> None:
        self._disk.sync(self._fd)

    with patched(UpstreamWriter, "sync", wrong):
        yield


@mutation(_flushing, states=120)
def referenced_block_overwritten() -> Iterator[None]:
    def wrong(_: FlushSelector, addresses: Any, by: Any = None) -> Any:
        return np.zeros(len(addresses), np.bool_)

    with patched(FlushSelector, "needed", wrong):
        yield


@mutation(_flushing, states=240, first_seed=34)
def durably_referenced_block_overwritten() -> Iterator[None]:
    """Only references of the moment count, and the mark is committed without the other changes."""
    right = FlushSelector.needed, UpstreamState.mark, Flush._settle
    marked = set()

    def needed(self: FlushSelector, addresses: Any, by: Any = None) -> Any:
        found = right[0](self, addresses, by)
        for index in np.flatnonzero(found).tolist():
            address = int(addresses[index])
            users = [self._map.references(*run).tolist() for run in self.users(address, 1)]
            found[index] = any(address in references for references in users)
        return found

    def mark(self: UpstreamState, runs: Iterable[Any], *, drop_hashes: bool) -> None:
        right[1](self, runs, drop_hashes=drop_hashes)
        marked.add(self)

    def settle(self: Flush) -> Generator[Step, None, None]:
        upstream, committer = self._tools.parts.upstream, self._tools.committer
        if upstream not in marked or committer.is_running:
            yield from right[2](self)
            return
        marked.discard(upstream)
        upstream._drops_hashes = False
        data = committer._store.database
        with data.transaction():
            flushing_table.replace(data.writer, upstream._marks.runs())
            committer.hash_entries -= hashes_table.drop_overwritten(data.writer)
            globals_table.store(data.writer, {"hash_entries": committer.hash_entries})

    with (
        patched(FlushSelector, "needed", needed),
        patched(UpstreamState, "mark", mark),
        patched(Flush, "_settle", settle),
    ):
        yield


@mutation(_flushing, states=120)
def references_made_to_reserved_blocks() -> Iterator[None]:
    def wrong(_: UpstreamState, __: int, limit: int) -> int:
        return limit

    with patched(UpstreamState, "referable", wrong):
        yield


@mutation(_flushing, states=30)
def block_overwritten_while_it_is_read() -> Iterator[None]:
    def wrong(*_: object) -> bool:
        return False

    with patched(Contents, "is_being_read", wrong):
        yield


@mutation(_flushing, states=120)
def rewritten_block_taken_for_flushed() -> Iterator[None]:
    """What clients write during a batch goes unnoticed."""
    right = Flush._note_changes

    def wrong(self: Flush) -> BlockRanges:
        right(self)
        return BlockRanges.of(())

    with patched(Flush, "_note_changes", wrong):
        yield


@mutation(_flushing, states=120)
def mark_not_durable_before_the_first_write() -> Iterator[None]:
    right = UpstreamState.mark

    def wrong(self: UpstreamState, runs: Iterable[Any], *, drop_hashes: bool) -> None:
        changed = self._marks_changed
        right(self, runs, drop_hashes=drop_hashes)
        self._marks_changed = changed

    with patched(UpstreamState, "mark", wrong):
        yield


@mutation(_cut_often, first_seed=12)
def cache_that_was_never_synced_compared_with() -> Iterator[None]:
    """An open forgets where a flush was cut, and syncs nothing."""
    right = UpstreamState.__init__

    def wrong(self: UpstreamState, _: object) -> None:
        right(self, [])

    with (
        patched(open_identity, "_sync_marked", do_nothing),
        patched(UpstreamState, "__init__", wrong),
    ):
        yield


@mutation(_failing, states=120)
def failed_sync_of_upstream_retried() -> Iterator[None]:
    right = UpstreamWriter.sync

    def wrong(self: UpstreamWriter) -> None:
        while True:
            try:
                return right(self)
            except OSError:
                pass

    with patched(UpstreamWriter, "sync", wrong):
        yield


@mutation(_failing, states=120)
def blocks_that_were_not_written_unmarked() -> Iterator[None]:
    right = Flush._take

    def wrong(self: Flush, device: Any, work: Any) -> None:
        right(self, device, work)
        upstream = self._tools.parts.upstream
        bad = BlockRanges.of((address, 1) for address in work.bad)
        upstream._marks = upstream._marks.minus(bad)

    with patched(Flush, "_take", wrong):
        yield


@mutation(_failing, states=120)
def block_whose_sync_failed_taken_for_equal() -> Iterator[None]:
    """What is in the page cache counts as what upstream holds."""
    right = BatchWrite.run

    def wrong(self: BatchWrite) -> None:
        self.unproved = BlockRanges.of(())
        right(self)

    with patched(BatchWrite, "run", wrong):
        yield


@mutation(_flushing, states=120)
def hash_entries_of_overwritten_blocks_kept() -> Iterator[None]:
    with patched(hashes_table, "drop_overwritten", lambda _: 0):
        yield
