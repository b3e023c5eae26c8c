"""A store opened read-only: everything is seen, nothing is written (invariant 10)."""

import os
import shutil
from pathlib import Path

import pytest

from tests.support.directories import photograph
from tests.support.engines import EngineStore, NewStore, letters
from thincow.errors import (
    ChecksumError,
    ConfigurationError,
    ReadOnlyError,
    StoreInUseError,
    StoreMismatchError,
)
from thincow.store.disk import Disk


@pytest.fixture
def written(new_store: NewStore) -> EngineStore:
    """A store, closed, whose device holds what was written in two commits."""
    store = new_store()
    store.add("a", "abcdefgh")
    store.open()
    store.write_blocks("a", 0, "xy0")
    store.engine.commit()
    store.write_blocks("a", 7, "z")
    store.close()
    return store


@pytest.fixture
def killed(written: EngineStore) -> EngineStore:
    """The same store with another commit in its write-ahead log only."""
    written.open()
    written.write_blocks("a", 4, "w")
    written.engine.commit()
    written.write_blocks("a", 5, "v")  # never committed
    written.kill()
    return written


def test_read_only_store_shows_everything_and_changes_nothing(written):
    before = photograph(written.root)
    engine = written.open(read_only=True)
    assert written.read_blocks("a") == "xy0defgz"
    assert not engine.is_dirty
    assert engine.status() == "disabled"
    assert written.places("a")[3:5] == ["own", "own"]
    written.close()
    assert photograph(written.root) == before


def test_unmerged_log_is_seen_and_left_alone(killed):
    log = killed.database.with_name("metadata.db-wal")
    assert log.stat().st_size > 0
    before = photograph(killed.root)
    killed.open(read_only=True)
    assert killed.read_blocks("a") == "xy0dwfgz"
    with killed.engine.snapshot() as snapshot:
        assert sum(int(chunk.length.sum()) for chunk in snapshot.extents()) == 5
    killed.close()
    assert photograph(killed.root) == before
    killed.open(read_only=False)
    assert killed.read_blocks("a") == "xy0dwfgz"
    killed.close()
    assert not log.exists()


def test_private_copy_of_the_log_leaves_nothing_behind(killed, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    killed.open(read_only=True, temp_dir=temporary)
    assert killed.read_blocks("a") == "xy0dwfgz"
    assert list(temporary.iterdir()) == []


def test_write_is_refused(written):
    written.open(read_only=True)
    for offset, data in ((0, b"1"), (0, letters("x")), (1 << 40, b"1")):
        with pytest.raises(ReadOnlyError):
            written.write("a", offset, data)
    assert written.engine.freeze() is None
    written.engine.commit()
    assert written.read_blocks("a") == "xy0defgz"


def test_store_may_be_read_by_several(written):
    written.open(read_only=True)
    other = written.another()
    other.open()
    assert other.read_blocks("a") == written.read_blocks("a")
    with pytest.raises(StoreInUseError, match=str(os.getpid())):
        written.another().open(read_only=False)
    other.must_be_sound = False  # is checked when the first one is closed
    other.close()
    assert written.read_blocks("a") == "xy0defgz"


def test_store_being_written_is_not_read(written):
    written.open()
    with pytest.raises(StoreInUseError, match=str(os.getpid())):
        written.another().open(read_only=True)


def test_nothing_is_created_read_only(new_store):
    store = new_store()
    store.add("a", "ab")
    for make_directory in (False, True):
        if make_directory:
            store.data_dir.mkdir()
        before = photograph(store.root)
        with pytest.raises(ConfigurationError, match="no store"):
            store.open(read_only=True)
        assert photograph(store.root) == before


def test_nothing_of_the_store_is_opened_for_writing(killed):
    """Root could write all the same, so it takes more than permissions to show it."""
    flags = []

    class Watching(Disk):
        def open(self, path: Path, mode: int, permissions: int = 0o600) -> int:
            flags.append(mode & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC))
            return super().open(path, mode, permissions)

    killed.disk = Watching()
    killed.open(read_only=True)
    assert killed.read_blocks("a") == "xy0dwfgz"
    assert set(flags) == {os.O_RDONLY}


def test_checksums_are_checked_but_not_recorded(new_store):
    store = new_store(checksum_bits=32)
    store.add("a", "abcd")
    store.open()
    store.read_blocks("a", 0, 2)
    store.close()
    before = photograph(store.data_dir)
    path = store.upstream_dir / "a"
    path.write_bytes(letters("aXYd"))
    store.open(read_only=True, force=True)
    assert store.read_blocks("a", 0, 1) == "a"
    assert store.read_blocks("a", 2, 2) == "Yd"
    with pytest.raises(ChecksumError):
        store.read_blocks("a", 1, 1)
    assert not store.engine.is_dirty
    store.close()
    assert photograph(store.data_dir) == before


def test_halves_are_checked_read_only_too(written, new_store):
    other = new_store("other")
    other.add("a", "abcdefgh")
    other.open()
    other.close()
    shutil.copy(other.data_dir / "metadata.db", written.data_dir / "metadata.db")
    written.must_be_sound = False
    with pytest.raises(StoreMismatchError):
        written.open(read_only=True)
