"""How an epoch becomes durable, and what a failure leaves."""

import errno
import time

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letters
from tests.support.scripted_disk import ScriptedDisk
from tests.support.sqlite_shell import SqliteShell
from thincow.engine import committer
from thincow.engine.options import Tuning
from thincow.errors import CommitError, DatabaseBusyError, NoSpaceError, StoreFailedError
from thincow.store import cow_table

LOG = "metadata.db-wal"


@pytest.fixture
def disk() -> ScriptedDisk:
    return ScriptedDisk(with_sqlite=True)


@pytest.fixture
def scripted(new_store: NewStore, disk: ScriptedDisk) -> EngineStore:
    """An open store of one device with 12 blocks, whose disk is scripted."""
    store = new_store(disk=disk)
    store.add("a", "abcdefghijkl")
    store.open()
    disk.calls.clear()
    return store


def test_commit_makes_contents_durable_before_metadata(scripted, disk):
    scripted.write_blocks("a", 0, "xy")
    scripted.engine.commit()
    order = [(call.kind, call.name) for call in disk.of("write", "sync", "claim")]
    contents = order.index(("write", "cowdata"))
    synced = order.index(("sync", "cowdata"))
    log = order.index(("write", LOG))
    log_synced = order.index(("sync", LOG))
    label = order.index(("write", "cowdata.id"))
    assert order[0] == ("claim", "cowdata")
    assert contents < synced < log < log_synced < label
    assert ("write", LOG) not in order[log_synced:]


def test_commit_without_new_contents_syncs_no_contents(scripted, disk):
    scripted.write_blocks("a", 0, "00")
    scripted.engine.commit()
    assert disk.of("sync", name="cowdata") == []
    assert len(disk.of("sync", name=LOG)) >= 1


def test_commit_of_nothing_does_nothing(scripted, disk):
    assert not scripted.engine.is_dirty
    assert scripted.engine.freeze() is None
    scripted.engine.commit()
    assert disk.calls == []


def test_commit_is_seen_by_others_only_when_it_is_complete(scripted):
    with SqliteShell(scripted.database) as shell:
        scripted.write_blocks("a", 0, "xy")
        assert shell.run("SELECT count(*) FROM extents") == ["0"]
        scripted.engine.commit()
        assert shell.run("SELECT sum(length) FROM extents") == ["2"]


def test_commit_leaves_what_comes_after_the_freeze_to_the_next_one(scripted):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "xy")
    commit = engine.freeze()
    scripted.write_blocks("a", 1, "z")
    assert engine.is_dirty
    commit.run()
    engine.finish(commit)
    assert engine.is_dirty
    scripted.kill()
    scripted.open()
    assert scripted.read_blocks("a") == "xycdefghijkl"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_commit_that_fails_keeps_its_changes(scripted, disk, code):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "xy")
    with disk.failing("write", LOG, code):
        with pytest.raises(CommitError) as error:
            engine.commit()
        assert error.value.code == code
        assert engine.is_dirty
        assert not engine.failed
        assert scripted.read_blocks("a", 0, 3) == "xyc"
        with pytest.raises(NoSpaceError):
            scripted.write_blocks("a", 5, "v")
    engine.commit()
    scripted.write_blocks("a", 5, "v")
    scripted.restart()
    assert scripted.read_blocks("a") == "xycdevghijkl"


def test_commit_that_fails_merges_back_under_newer_changes(scripted, disk):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "xyz")
    engine.commit()
    scripted.write_blocks("a", 1, "uv")  # frees the blocks of y and z
    commit = engine.freeze()
    scripted.write_blocks("a", 2, "w")  # frees the block of v
    scripted.write_blocks("a", 8, "0")
    with disk.failing("write", LOG, errno.ENOSPC):
        commit.run()
    with pytest.raises(CommitError):
        engine.finish(commit)
    assert scripted.read_blocks("a") == "xuwdefgh0jkl"
    engine.commit()
    assert scripted.live_cow_blocks() == 3
    scripted.restart()
    assert scripted.read_blocks("a") == "xuwdefgh0jkl"
    scripted.close()
    assert scripted.cowdata.stat().st_size <= 6 * BLOCK


def test_commit_that_fails_syncs_contents_again(scripted, disk):
    scripted.write_blocks("a", 0, "x")
    with disk.failing("write", LOG, errno.ENOSPC), pytest.raises(CommitError):
        scripted.engine.commit()
    disk.calls.clear()
    scripted.engine.commit()
    assert len(disk.of("sync", name="cowdata")) == 1


def test_commit_does_without_hash_entries_when_space_is_short(scripted, disk):
    scripted.write_blocks("a", 0, "xy")
    disk.fail("write", LOG, errno.ENOSPC, times=1)
    scripted.engine.commit()
    assert scripted.engine.hash_usage()[0] == 0
    scripted.restart()
    assert scripted.read_blocks("a", 0, 3) == "xyc"


@pytest.mark.parametrize("name", ["cowdata", LOG])
def test_sync_that_fails_is_final(scripted, disk, name):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "x")
    engine.commit()
    scripted.write_blocks("a", 1, "y")
    with disk.failing("sync", name), pytest.raises(StoreFailedError):
        engine.commit()
    assert engine.failed
    with pytest.raises(StoreFailedError):
        engine.commit()
    with pytest.raises(StoreFailedError):
        scripted.write_blocks("a", 2, "z")
    disk.calls.clear()
    scripted.forget()
    engine.close()
    changes = {"write", "sync", "truncate", "punch", "claim"}
    assert [call for call in disk.calls if call.kind in changes] == []


def test_write_that_finds_out_that_a_sync_failed_is_not_taken(scripted, disk, monkeypatch):
    monkeypatch.setattr(committer, "_RETRY_S", 0.0)
    scripted.write_blocks("a", 0, "x")
    with disk.failing("write", LOG, errno.ENOSPC), pytest.raises(CommitError):
        scripted.engine.commit()
    # The next write tries to make room first.
    with disk.failing("sync", "cowdata"), pytest.raises(StoreFailedError):
        scripted.write_blocks("a", 1, "y")
    assert scripted.read_blocks("a", 1, 1) == "b"
    assert scripted.engine.failed
    scripted.close()


def test_failed_store_is_closed_without_leaving_the_reserve(scripted, disk):
    scripted.write_blocks("a", 0, "x")
    assert (scripted.data_dir / "reserve").exists()
    with disk.failing("sync", "cowdata"), pytest.raises(StoreFailedError):
        scripted.engine.commit()
    scripted.close()
    assert not (scripted.data_dir / "reserve").exists()


def test_last_reader_of_a_failed_store_does_not_merge_the_log(scripted, disk):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "x")
    engine.commit()
    snapshot = engine.snapshot()
    scripted.write_blocks("a", 1, "y")
    with disk.failing("sync", "cowdata"), pytest.raises(StoreFailedError):
        engine.commit()
    scripted.forget()
    engine.close()
    disk.calls.clear()
    snapshot.close()
    assert disk.of("write", "sync", "truncate") == []


def test_reading_does_not_fill_the_memory_of_a_failed_store(scripted, disk):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "x")
    with disk.failing("sync", "cowdata"), pytest.raises(StoreFailedError):
        engine.commit()
    staged = engine.hints_waiting
    assert scripted.read_blocks("a", 2) == "cdefghijkl"
    assert engine.hints_waiting == staged
    scripted.close()


def test_reading_makes_a_commit_due_and_notes_no_more_than_that_takes(new_store):
    tuning = Tuning(window_blocks=4, commit_staged_hashes=4, max_waiting_hints=6)
    store = new_store(tuning=tuning)
    store.add("a", "abcdefghijkl")
    engine = store.open()
    store.read_blocks("a", 0, 4)
    assert not engine.hints_due
    store.read_blocks("a", 4, 1)
    assert engine.hints_due
    for block in range(5, 12):
        store.read_blocks("a", block, 1)
    assert engine.hints_waiting == 6
    engine.commit()
    assert engine.hints_waiting == 4
    assert not engine.hints_due
    engine.commit()
    engine.commit()
    assert engine.hints_waiting == 0
    store.read_blocks("a", 6, 3)
    assert engine.hints_waiting == 3


def test_sync_of_contents_that_fails_leaves_the_last_commit(scripted, disk):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "x")
    engine.commit()
    scripted.write_blocks("a", 1, "y")
    with disk.failing("sync", "cowdata"), pytest.raises(StoreFailedError):
        engine.commit()
    scripted.forget()
    engine.close()
    scripted.open()
    assert scripted.read_blocks("a", 0, 3) == "xbc"


def test_checkpoint_that_fails_to_sync_is_final(new_store, disk):
    store = new_store(disk=disk)
    store.options["tuning"] = store.store_options().tuning.__class__(
        window_blocks=4, cached_windows=1, checkpoint_wal_bytes=0
    )
    store.add("a", "abcd")
    engine = store.open()
    store.write_blocks("a", 0, "x")
    with disk.failing("sync", "metadata.db"), pytest.raises(StoreFailedError):
        engine.commit()
    assert engine.failed
    store.forget()
    engine.close()
    store.open()
    assert store.read_blocks("a") == "xbcd"


def test_database_that_is_busy_is_tried_again(scripted):
    scripted.write_blocks("a", 0, "x")
    with SqliteShell(scripted.database) as shell:
        shell.run("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseBusyError):
            scripted.engine.commit()
        assert scripted.read_blocks("a", 0, 1) == "x"
        shell.run("ROLLBACK")
        scripted.engine.commit()
    scripted.write_blocks("a", 1, "y")


def test_write_does_not_wait_for_a_shell_that_writes(scripted, disk, monkeypatch):
    monkeypatch.setattr(committer, "_RETRY_S", 0.0)
    scripted.write_blocks("a", 0, "x")
    with SqliteShell(scripted.database) as shell:
        shell.run("BEGIN IMMEDIATE")
        with pytest.raises(CommitError):
            scripted.engine.commit()
        begin = time.monotonic()
        with pytest.raises(NoSpaceError):
            scripted.write_blocks("a", 1, "y")
        assert time.monotonic() - begin < 1
        shell.run("ROLLBACK")
    scripted.engine.commit()
    scripted.write_blocks("a", 1, "y")
    assert scripted.engine.hash_usage()[0] > 0  # they were not taken for what fills the disk


def test_commit_that_ends_unexpectedly_keeps_its_changes(scripted, monkeypatch, caplog):
    scripted.write_blocks("a", 0, "xy")
    with monkeypatch.context() as patch:
        patch.setattr(cow_table, "apply_changes", lambda *_: 1 // 0)
        with pytest.raises(CommitError, match="ZeroDivisionError"):
            scripted.engine.commit()
    assert "a commit ended unexpectedly" in caplog.text
    scripted.engine.commit()
    scripted.restart()
    assert scripted.read_blocks("a", 0, 3) == "xyc"


def test_reader_with_an_old_view_stops_no_commit(scripted):
    with SqliteShell(scripted.database) as shell:
        assert shell.run("BEGIN; SELECT count(*) FROM extents") == ["0"]
        for number in range(5):
            scripted.write_blocks("a", number, "x")
            scripted.engine.commit()
        assert shell.run("SELECT count(*) FROM extents") == ["0"]
        assert shell.run("ROLLBACK; SELECT sum(length) FROM extents") == ["5"]


def test_commit_is_due_when_much_has_changed(new_store):
    store = new_store()
    store.add("a", "abcdefghijkl")
    tuning = store.store_options().tuning
    store.options["tuning"] = tuning.__class__(4, 1, commit_new_bytes=2 * BLOCK)
    engine = store.open()
    store.write_blocks("a", 0, "xy")
    assert not engine.commit_due
    store.write_blocks("a", 2, "z")
    assert engine.commit_due
    assert not engine.must_wait
    commit = engine.freeze()
    assert not engine.commit_due
    store.write("a", 4 * BLOCK, letters("mnopq"))
    assert engine.must_wait
    commit.run()
    engine.finish(commit)
    assert not engine.must_wait
    assert engine.commit_due


def test_close_that_cannot_commit_says_so_and_lets_go(scripted, disk):
    engine = scripted.engine
    scripted.write_blocks("a", 0, "x")
    engine.commit()
    scripted.write_blocks("a", 1, "y")
    disk.fail("write", LOG, errno.ENOSPC)
    scripted.forget()
    with pytest.raises(CommitError):
        engine.close()
    disk.mend()
    scripted.open()
    assert scripted.read_blocks("a", 0, 3) == "xbc"


@pytest.mark.parametrize("kind", ["truncate", "punch"])
def test_close_that_cannot_give_space_back_loses_nothing(scripted, disk, kind):
    scripted.write_blocks("a", 0, "uvwxyzUVW")
    scripted.write_blocks("a", 0, "x" + "0" * 8)
    with disk.failing(kind, "cowdata"):
        scripted.close()
    scripted.open()
    assert scripted.read_blocks("a", 0, 3) == "x00"


@pytest.mark.parametrize("kind", ["write", "sync"])
def test_close_that_cannot_write_the_label_loses_nothing(scripted, disk, kind, caplog):
    scripted.write_blocks("a", 0, "x")
    with disk.failing(kind, "cowdata.id"):
        scripted.close()
    assert "the next open will check the store" in caplog.text
    scripted.open()
    assert scripted.read_blocks("a", 0, 3) == "xbc"
    scripted.restart()
    assert scripted.read_blocks("a", 0, 3) == "xbc"


def test_close_on_a_full_disk_leaves_a_check_to_the_next_open(scripted, disk, caplog):
    scripted.write_blocks("a", 0, "x")
    scripted.engine.commit()
    with disk.failing("write", LOG, errno.ENOSPC):
        scripted.close()
    assert "the next open will check the store" in caplog.text
    scripted.open()
    assert scripted.read_blocks("a", 0, 3) == "xbc"


def test_store_is_opened_although_its_label_cannot_be_written(scripted, disk, caplog):
    scripted.write_blocks("a", 0, "x")
    scripted.close()
    with disk.failing("write", "cowdata.id", errno.ENOSPC):
        scripted.open()
        scripted.write_blocks("a", 1, "y")
        scripted.engine.commit()
        scripted.engine.commit()
        assert scripted.read_blocks("a", 0, 3) == "xyc"
    assert caplog.text.count("cowdata.id: ") == 1
    scripted.restart()
    assert scripted.read_blocks("a", 0, 3) == "xyc"
