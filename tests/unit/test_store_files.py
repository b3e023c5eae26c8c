"""The halves of a store: those that do not belong together are refused, untouched."""

import errno
import shutil
from pathlib import Path

import pytest

from tests.support.directories import photograph
from tests.support.engines import EngineStore, NewStore
from tests.support.scripted_disk import ScriptedDisk
from thincow.errors import CorruptStoreError, StoreMismatchError, ThincowError
from thincow.store.disk import Disk
from thincow.store.label import read_label


def make(new_store: NewStore, name: str = "store", **options: object) -> EngineStore:
    """Return a store with metadata apart, written to and closed."""
    store = new_store(name, metadata="apart", **options)
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 1, "xy")
    store.close()
    return store


def expect_refused(store: EngineStore, error: type[ThincowError], words: str) -> None:
    """Opening fails and leaves every file as it is."""
    store.must_be_sound = False
    before = photograph(store.root)
    with pytest.raises(error, match=words):
        store.open()
    assert photograph(store.root) == before


def generation(store: EngineStore) -> int:
    label = read_label(Disk(), store.data_dir)
    assert label is not None
    return label.generation


def keep(directory: Path) -> Path:
    """Copy a directory of a closed store."""
    return Path(shutil.copytree(directory, directory.with_name(f"{directory.name}-kept")))


def put_back(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.with_name(f"{directory.name}-kept").rename(directory)


def test_halves_may_lie_apart(new_store):
    store = make(new_store)
    assert {path.name for path in store.data_dir.iterdir()} == {"cowdata", "cowdata.id"}
    assert [path.name for path in store.database.parent.iterdir()] == ["metadata.db"]
    store.open()
    assert store.read_blocks("a") == "axyd"


def test_halves_may_be_moved(new_store):
    store = make(new_store)
    store.root = store.root.rename(store.root.with_name("moved"))
    store.data_dir, store.upstream_dir = store.root / "data", store.root / "upstream"
    store.open()
    assert store.read_blocks("a") == "axyd"


def test_halves_of_two_stores_are_refused(new_store):
    store, other = make(new_store), make(new_store, "other")
    shutil.copy(other.database, store.database)
    expect_refused(store, StoreMismatchError, "different stores")


def test_old_metadata_are_refused(new_store):
    store = make(new_store)
    keep(store.database.parent)
    store.open()
    store.write_blocks("a", 0, "z")
    store.close()
    put_back(store.database.parent)
    expect_refused(store, StoreMismatchError, "is older")


def test_old_metadata_are_refused_after_a_kill_too(new_store):
    store = new_store()
    store.add("a", "abcd")
    store.open()
    store.close()
    shutil.copy(store.database, store.root / "old")
    store.open()
    store.write_blocks("a", 0, "z")
    store.engine.commit()
    store.kill()
    for path in store.data_dir.glob("metadata.db*"):
        path.unlink()
    shutil.copy(store.root / "old", store.database)
    expect_refused(store, StoreMismatchError, "is older")


def test_old_contents_are_refused(new_store):
    store = make(new_store)
    keep(store.data_dir)
    store.open()
    store.write_blocks("a", 0, "z")
    store.close()
    put_back(store.data_dir)
    expect_refused(store, StoreMismatchError, "is older")


def test_contents_without_their_metadata_are_refused(new_store):
    store = make(new_store)
    store.database.unlink()
    expect_refused(store, StoreMismatchError, "metadata.db is missing")


def test_metadata_in_memory_are_refused_beside_contents(new_store):
    store = make(new_store)
    store.metadata = "memory"
    expect_refused(store, StoreMismatchError, "in memory")


@pytest.mark.parametrize("name", ["cowdata", "cowdata.id"])
def test_metadata_without_their_contents_are_refused(new_store, name):
    store = make(new_store)
    (store.data_dir / name).unlink()
    expect_refused(store, StoreMismatchError, "does not hold its")


@pytest.mark.parametrize("content", [b"", b"thincow\n", b"thincow x\n" * 20])
def test_damaged_label_is_refused(new_store, content):
    store = make(new_store)
    (store.data_dir / "cowdata.id").write_bytes(content)
    expect_refused(store, CorruptStoreError, "cowdata.id")


def test_other_block_size_is_refused(new_store):
    store = make(new_store)
    store.options["block_size"] = 1024
    expect_refused(store, StoreMismatchError, "512 bytes, not 1024")
    store.options["block_size"] = 512
    store.open(block_size=None)


def test_label_follows_the_commits(new_store):
    store = make(new_store)
    before = generation(store)
    store.open()
    assert generation(store) == before + 1
    store.write_blocks("a", 0, "z")
    store.engine.commit()
    assert generation(store) == before + 2
    store.close()
    assert generation(store) == before + 2


def test_label_may_lag_behind_after_a_kill(new_store):
    store = new_store()
    store.add("a", "abcd")
    store.open()
    label = (store.data_dir / "cowdata.id").read_bytes()
    store.write_blocks("a", 0, "z")
    store.engine.commit()
    store.kill()
    (store.data_dir / "cowdata.id").write_bytes(label)
    store.open()
    assert store.read_blocks("a") == "zbcd"


def test_label_that_cannot_be_written_stops_no_commit(new_store):
    disk = ScriptedDisk()
    store = new_store(disk=disk)
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 0, "z")
    with disk.failing("write", "cowdata.id", errno.ENOSPC):
        store.engine.commit()
    store.kill()
    store.open()
    assert store.read_blocks("a") == "zbcd"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("open", "cowdata"),
        ("open", "cowdata.id"),
        ("write", "cowdata.id"),
        ("sync", "cowdata.id"),
        ("sync_directory", "data"),
        ("open", "metadata.db.new"),
        ("write", "metadata.db.new"),
        ("sync", "metadata.db.new"),
        ("rename", "metadata.db"),
        ("sync_directory", "metadata"),
    ],
)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_creation_that_fails_can_be_done_again(new_store, kind, name, code):
    disk = ScriptedDisk(with_sqlite=True)
    store = new_store(disk=disk, metadata="apart")
    store.add("a", "abcd")
    disk.fail(kind, name, code)
    with pytest.raises(ThincowError):
        store.open()
    assert any(call.kind == kind and call.name == name for call in disk.calls)
    disk.mend()
    store.open()
    store.write_blocks("a", 0, "z")
    store.restart()
    assert store.read_blocks("a") == "zbcd"


def test_metadata_in_memory_leave_nothing_behind(new_store):
    store = new_store(metadata="memory")
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 0, "xyz")
    store.engine.commit()
    assert store.read_blocks("a") == "xyzd"
    assert store.places("a") == ["cow 0", "cow 1", "cow 2", "own"]
    assert {path.name for path in store.data_dir.iterdir()} == {"cowdata", "cowdata.id"}
    store.close()
    assert list(store.data_dir.iterdir()) == []
    store.open()
    assert store.read_blocks("a") == "abcd"


def test_clean_store_holds_three_regular_files(new_store):
    store = new_store()
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 0, "xy")
    store.close()
    assert {path.name for path in store.data_dir.iterdir()} == {
        "cowdata",
        "cowdata.id",
        "metadata.db",
    }
    assert all(path.is_file() and not path.is_symlink() for path in store.data_dir.iterdir())
