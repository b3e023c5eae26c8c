"""What keeps the mapped index of the write-ahead log from being changed without space for it."""

import ctypes
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from thincow.errors import CommitError
from thincow.store import database, globals_table, log_index
from thincow.store.connection import transaction
from thincow.store.database import Database
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.log_index import LogIndex

FACTS = Globals("0" * 32, 512, 4, 0, clean=True, hash_entries=0, checksum_bits=0)
REGION = 32 << 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "metadata.db"
    database.create(Disk(), path, FACTS)
    return path


@pytest.fixture
def opened(path: Path) -> Iterator[Database]:
    opened = database.open_database(path)
    globals_table.load(opened.reader)  # only now SQLite has an index
    yield opened
    opened.close()


def size_of_index(path: Path) -> int:
    return path.with_name("metadata.db-shm").stat().st_size


def test_space_for_the_next_commit_is_claimed_before_it(opened, path):
    with opened.transaction():
        globals_table.store(opened.writer, {"generation": 1})
    assert size_of_index(path) == 2 * REGION
    index = LogIndex(path)
    index.secure(4096 - 35)
    assert size_of_index(path) == 2 * REGION
    index.secure(4096 - 34)
    assert size_of_index(path) == 3 * REGION
    assert globals_table.load(opened.reader).generation == 1


def test_full_disk_is_noticed_before_the_commit(opened, monkeypatch):
    def claim(_disk: Disk, _fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Disk, "claim", claim)
    with pytest.raises(CommitError) as caught, opened.transaction():
        globals_table.store(opened.writer, {"generation": 1})
    assert caught.value.code == errno.ENOSPC
    monkeypatch.undo()
    assert globals_table.load(opened.reader).generation == 0
    with opened.transaction():
        globals_table.store(opened.writer, {"generation": 2})


def test_pages_that_cannot_be_changed_are_noticed_before_the_commit(opened, path, monkeypatch):
    asked = []

    def madvise(_address: int, length: int, _advice: int) -> int:
        asked.append(length)
        ctypes.set_errno(errno.EFAULT)
        return -1

    monkeypatch.setattr(log_index._libc, "madvise", madvise)
    with pytest.raises(CommitError) as caught:
        LogIndex(path).secure(0)
    assert caught.value.code == errno.ENOSPC
    assert asked == [REGION]


def test_log_stays_when_its_index_cannot_be_changed_at_the_end(path, monkeypatch):
    opened = database.open_database(path)
    with opened.transaction():
        globals_table.store(opened.writer, {"generation": 1})

    def secure(_index: LogIndex, _log_frames: int) -> None:
        raise CommitError("full", errno.ENOSPC)

    monkeypatch.setattr(LogIndex, "secure", secure)
    opened.close()
    assert path.with_name("metadata.db-wal").stat().st_size > 0
    monkeypatch.undo()
    opened = database.open_database(path)
    assert globals_table.load(opened.reader).generation == 1
    opened.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["metadata.db"]


def test_index_that_was_prepared_in_vain_is_removed(path):
    index = path.with_name("metadata.db-shm")
    index.touch()
    log_index.discard_unused(path)
    assert not index.exists()
    log = path.with_name("metadata.db-wal")
    index.write_bytes(bytes(3))
    log.touch()
    log_index.discard_unused(path)
    assert not index.exists()
    assert not log.exists()
    index.write_bytes(bytes(REGION))
    log.touch()
    log_index.discard_unused(path)
    assert index.exists()
    assert log.exists()


def test_warning_that_the_log_cannot_be_merged_comes_once(opened, monkeypatch, caplog):
    def secure(_index: LogIndex, _log_frames: int) -> None:
        raise CommitError("full", errno.ENOSPC)

    for generation in range(3):
        with transaction(opened.writer):
            globals_table.store(opened.writer, {"generation": generation})
        with monkeypatch.context() as patch:
            patch.setattr(LogIndex, "secure", secure)
            opened.checkpoint_if_due(soon=True)
    assert caplog.text.count("cannot be merged now") == 1


def test_reader_has_caught_up_with_a_commit(opened, path):
    with opened.transaction():
        globals_table.store(opened.writer, {"generation": 1})
    opened.catch_up()
    index = path.with_name("metadata.db-shm").read_bytes()
    assert globals_table.load(opened.reader).generation == 1
    # Reading did not change the index any more.
    assert path.with_name("metadata.db-shm").read_bytes() == index
