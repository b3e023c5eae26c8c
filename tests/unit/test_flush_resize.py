"""Sizes given to upstream by flushes in which something fails or changes meanwhile."""

import os
from collections.abc import Callable

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letters
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine import fsck
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_steps import Pause
from thincow.engine.flush_write import BatchWrite
from thincow.errors import FlushError

OLD, NEW = 4 * BLOCK + 50, 6 * BLOCK + 7


@pytest.fixture
def disk() -> ScriptedDisk:
    return ScriptedDisk()


@pytest.fixture
def store(new_store: NewStore, disk: ScriptedDisk) -> EngineStore:
    """A store with a device of a bit more than four blocks, open and read."""
    store = new_store(disk=disk)
    store.add("a", letters("abcde")[:OLD])
    store.open()
    store.read("a")
    return store


def flush_with_failing(store: EngineStore, disk: ScriptedDisk, kind: str) -> None:
    disk.fail(kind, "a")
    with pytest.raises(FlushError):
        store.engine.flush.run(FlushOrder())
    disk.mend()


def check(store: EngineStore) -> None:
    """Flush, and check all that there is to check."""
    shown = store.read("a")
    store.engine.flush.run(FlushOrder())
    assert store.engine.status() == "clean"
    assert (store.upstream_dir / "a").read_bytes() == shown
    store.close()
    assert fsck.check(store.data_dir, None, store.upstream_dir, deep=True).is_clean
    store.open()
    assert store.read("a") == shown


@pytest.mark.parametrize("size", [NEW, 2 * BLOCK + 7])
@pytest.mark.parametrize("end", [EngineStore.close, EngineStore.kill])
def test_sync_that_fails_leaves_both_sizes_possible(
    store: EngineStore, disk: ScriptedDisk, size: int, end: Callable[[EngineStore], None]
) -> None:
    store.resize("a", size)
    path = store.upstream_dir / "a"
    for _ in range(3):
        flush_with_failing(store, disk, "sync_whole")
        assert path.stat().st_size == size
        end(store)
        store.open()
    shown = store.read("a")
    store.engine.set_attributes(store.device("a"), mode=0o600)
    store.engine.commit()
    store.kill()
    os.truncate(path, OLD)  # as a power cut may: the new size was never synced
    store.open()
    assert store.read("a") == shown
    check(store)


@pytest.mark.parametrize("size", [0, 2 * BLOCK, 2 * BLOCK + 7])
def test_marks_of_what_is_cut_go_with_it(store: EngineStore, disk: ScriptedDisk, size: int) -> None:
    store.write_blocks("a", 2, "xy")
    flush_with_failing(store, disk, "sync_whole")
    assert store.engine._parts.upstream.marks.blocks
    store.resize("a", size)
    check(store)
    store.resize("a", OLD)
    check(store)


def test_block_that_is_cut_in_two_and_rewritten_all_the_time(store: EngineStore) -> None:
    path = store.upstream_dir / "a"
    store.resize("a", 2 * BLOCK + 7)

    def client() -> None:
        store.write("a", 2 * BLOCK, os.urandom(7))
        if path.stat().st_size != OLD:
            store.engine.flush.cancel()

    store.engine.flush.run(FlushOrder(), client)
    assert path.read_bytes() == letters("abc")[: 2 * BLOCK + 7]
    store.close()
    assert fsck.check(store.data_dir, None, store.upstream_dir, deep=True).is_clean
    store.open()
    check(store)


def test_cut_is_no_block_that_a_limit_counts(store: EngineStore) -> None:
    store.resize("a", 2 * BLOCK)
    store.write_blocks("a", 1, "x")
    store.engine.flush.run(FlushOrder(max_blocks=1))
    assert store.engine.status() == "clean"
    assert (store.upstream_dir / "a").read_bytes() == letters("ax")


@pytest.mark.parametrize("grows", [False, True])
def test_entries_learnt_by_a_flush_go_with_what_it_cuts(store: EngineStore, grows: bool) -> None:
    # As in a mount, commits that somebody waits for leave entries of upstream to later ones.
    engine, device = store.engine, store.device("a")
    store.write_blocks("a", 0, "vwxyz")
    flush = engine.flush.begin(FlushOrder(batch_bytes=2 * BLOCK))
    batches = 0
    for step in flush.steps():
        if step is Pause.COMMIT:
            commit = engine.freeze(is_awaited=True)
            if commit is not None:
                commit.run()
                engine.finish(commit)
        elif not isinstance(step, Pause):
            step.run()
            batches += isinstance(step, BatchWrite)
            if batches == 2 and isinstance(step, BatchWrite):
                engine.resize(device, BLOCK)
                if grows:
                    engine.resize(device, OLD)
    engine.flush.end(None)
    assert batches >= 2
    check(store)
