"""Backups of stores that are not mounted: what is copied, and what is left when it fails."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.directories import photograph
from tests.support.engines import BLOCK, EngineStore, NewStore
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine import fsck
from thincow.engine.backup import BackupResult, back_up
from thincow.engine.store_view import open_offline_view
from thincow.errors import (
    ConfigurationError,
    CorruptStoreError,
    StoreInUseError,
    StoreMismatchError,
    ThincowError,
)
from thincow.store.backup_mark import COMPLETE_NAME, INCOMPLETE_NAME, begin_backup
from thincow.store.disk import Disk
from thincow.store.locks import DirectoryLock


class CloningDisk(Disk):
    """Pretends that the filesystem can share space; notes the ranges."""

    def __init__(self, failure: int | None = None) -> None:
        self.failure = failure
        self.cloned: list[tuple[int, int]] = []

    def clone(self, source_fd: int, target_fd: int, offset: int, length: int) -> None:
        if self.failure is not None:
            raise OSError(self.failure, os.strerror(self.failure))
        self.cloned.append((offset, length))
        assert offset % 4096 == 0
        assert length % 4096 == 0 or offset + length == os.fstat(source_fd).st_size
        self.write(target_fd, self.read(source_fd, length, offset), offset)


class FailingDisk(Disk):
    """Lets one call fail: the one of a number, counted from 0; None counts only."""

    def __init__(self, number: int | None, code: int = errno.EIO) -> None:
        self.calls = 0
        self._number = number
        self._code = code

    def __getattribute__(self, name: str) -> object:
        if name in ("open", "write", "sync", "sync_directory", "truncate", "rename", "unlink"):
            self.calls += 1
            if self.calls - 1 == self._number:
                raise OSError(self._code, os.strerror(self._code))
        return super().__getattribute__(name)


class LossyDisk(Disk):
    """Its first sync of a `cowdata` fails, and what was written to it stays in memory only."""

    def __init__(self) -> None:
        self.only_cached: dict[int, bytes] = {}
        self._has_failed = False

    def clone(self, source_fd: int, target_fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        super().write(fd, data, offset)
        if _is_cowdata(fd):
            for at in range(offset, offset + len(data), BLOCK):
                if self._has_failed:
                    self.only_cached.pop(at, None)
                else:
                    self.only_cached[at] = bytes(data[at - offset : at - offset + BLOCK])

    def sync(self, fd: int) -> None:
        if _is_cowdata(fd) and not self._has_failed:
            self._has_failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)

    def forget_cached(self, fd: int) -> None:
        """Show what the disk holds: nothing, where no write was followed by a sync."""
        for at, data in self.only_cached.items():
            os.pwrite(fd, bytes(len(data)), at)


def _is_cowdata(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").readlink().name == "cowdata"


@pytest.fixture
def filled(store: EngineStore) -> EngineStore:
    """A closed store with runs and gaps in its COW file."""
    store.add("disk", "a" * 40)
    store.open()
    store.write_blocks("disk", 0, "bcdefghijklmnopqrst")
    store.engine.commit()
    store.write_blocks("disk", 3, "000000")
    store.write_blocks("disk", 12, "00")
    store.close()
    return store


def run(store: EngineStore, name: str = "backup", **options: object) -> BackupResult:
    with open_offline_view(store.data_dir, None, store.upstream_dir) as view:
        return back_up(view, store.root / name, **options)


def as_store(store: EngineStore, name: str = "backup") -> EngineStore:
    copy = store.another()
    copy.data_dir = store.root / name
    return copy


def shown_by(store: EngineStore) -> str:
    store.open()
    try:
        return store.read_blocks("disk")
    finally:
        store.close()


SHOWN = "bcd000000klm00p"


def test_backup_is_a_store_of_its_own(filled: EngineStore) -> None:
    before = photograph(filled.data_dir)
    result = run(filled)
    assert photograph(filled.data_dir) == before
    assert result.contents.total == 11 * BLOCK
    assert result.contents.copied + result.contents.shared == 11 * BLOCK
    copy = as_store(filled)
    assert shown_by(copy).startswith(SHOWN)
    copy.open()
    copy.write_blocks("disk", 0, "x")
    copy.close()
    assert shown_by(filled).startswith(SHOWN)


def test_backup_leaves_holes(store: EngineStore) -> None:
    store.options["block_size"] = 4096
    store.add("disk", "a" * 64)
    store.open()
    store.write("disk", 0, os.urandom(64 * 4096))
    store.engine.commit()
    store.write("disk", 4096, bytes(60 * 4096))
    store.close()
    run(store)
    copy = as_store(store)
    assert copy.cowdata.stat().st_size == 64 * 4096
    assert copy.stored_blocks() == 4
    assert copy.cowdata.stat().st_mode & 0o777 == 0o600
    assert copy.database.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "failure", [None, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.EAGAIN]
)
def test_backup_shares_space_where_that_can_be_done(
    filled: EngineStore, failure: int | None
) -> None:
    result = run(filled, disk=CloningDisk(failure))
    assert (result.contents.shared, result.contents.copied) == (
        (11 * BLOCK, 0) if failure is None else (0, 11 * BLOCK)
    )
    assert shown_by(as_store(filled)).startswith(SHOWN)


def test_every_call_may_fail(filled: EngineStore) -> None:
    counting = FailingDisk(None)
    run(filled, "counted", disk=counting)
    before = photograph(filled.data_dir)
    assert counting.calls > 12
    for number in range(counting.calls):
        name = f"failed{number}"
        with pytest.raises(ThincowError) as caught:
            run(filled, name, disk=FailingDisk(number))
        assert "\n" not in str(caught.value)
        _assert_refused_or_whole(filled, name)
        if (filled.root / name / INCOMPLETE_NAME).exists():
            mark = (filled.root / name / INCOMPLETE_NAME).read_text().strip()
            if mark:
                run(filled, name, incremental=True)
                assert shown_by(as_store(filled, name)).startswith(SHOWN)
    assert photograph(filled.data_dir) == before


def test_every_call_of_an_incremental_backup_may_fail(filled: EngineStore) -> None:
    run(filled, "counted")
    counting = FailingDisk(None)
    run(filled, "counted", incremental=True, disk=counting)
    for number in range(counting.calls):
        name = f"failed{number}"
        run(filled, name)
        with pytest.raises(ThincowError):
            run(filled, name, incremental=True, disk=FailingDisk(number, errno.ENOSPC))
        _assert_refused_or_whole(filled, name)


def _assert_refused_or_whole(store: EngineStore, name: str) -> None:
    copy = as_store(store, name)
    if (copy.data_dir / INCOMPLETE_NAME).exists():
        for look in (copy.open, lambda: fsck.check(copy.data_dir), lambda: run(copy, "other")):
            with pytest.raises(ConfigurationError, match="not completed"):
                look()
    elif (copy.data_dir / COMPLETE_NAME).exists():
        assert shown_by(copy).startswith(SHOWN)
    else:
        assert not copy.data_dir.exists() or not list(copy.data_dir.iterdir())


def test_directory_that_is_not_empty_is_not_touched(filled: EngineStore) -> None:
    target = filled.root / "backup"
    target.mkdir()
    (target / "mine").write_text("mine")
    for incremental in (False, True):
        with pytest.raises(ConfigurationError):
            run(filled, incremental=incremental)
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_store_is_not_its_own_backup(filled: EngineStore) -> None:
    before = photograph(filled.data_dir)
    for name in ("data", "upstream/inside"):
        with pytest.raises(ConfigurationError):
            run(filled, name, incremental=True)
    assert photograph(filled.data_dir) == before


def test_original_is_not_overwritten_by_its_backup(filled: EngineStore) -> None:
    run(filled)
    before = photograph(filled.data_dir)
    with pytest.raises(ConfigurationError, match="no backup"):
        run(as_store(filled), "data", incremental=True)
    assert photograph(filled.data_dir) == before


def test_backup_of_another_store_is_not_overwritten(
    filled: EngineStore, new_store: NewStore
) -> None:
    other = new_store("other")
    other.add("disk", "a" * 40)
    other.open()
    other.close()
    run(other)
    (other.root / "backup").rename(filled.root / "backup")
    with pytest.raises(StoreMismatchError, match="not a backup of this store"):
        run(filled, incremental=True)


@pytest.mark.parametrize("is_label_lost", [False, True])
@pytest.mark.parametrize("commits", [0, 5])
def test_backup_that_went_on_by_itself_is_not_overwritten(
    filled: EngineStore, commits: int, is_label_lost: bool
) -> None:
    """Whether the store has come further meanwhile, or not."""
    run(filled)
    label = (filled.root / "backup" / "cowdata.id").read_bytes()
    copy = as_store(filled)
    copy.open()
    copy.write_blocks("disk", 0, "x")
    copy.close()
    if is_label_lost:  # by a power cut
        (filled.root / "backup" / "cowdata.id").write_bytes(label)
        copy.must_be_sound = False
    for number in range(commits):
        filled.open()
        filled.write_blocks("disk", 20, "xy"[number % 2])
        filled.close()
    before = photograph(copy.data_dir)
    with pytest.raises(StoreMismatchError, match="not overwritten"):
        run(filled, incremental=True)
    assert photograph(copy.data_dir) == before


def test_backup_older_than_its_mark_is_overwritten(filled: EngineStore) -> None:
    """One that was cut short, of a newer commit than what is left there."""
    run(filled)
    begin_backup(Disk(), filled.root / "backup", _store_id(filled), 1 << 20)
    run(filled, incremental=True)
    assert shown_by(as_store(filled)).startswith(SHOWN)


def _store_id(store: EngineStore) -> str:
    with open_offline_view(store.data_dir) as view:
        return view.header().store_id


def test_copy_that_never_reached_the_disk_is_not_taken_for_written(filled: EngineStore) -> None:
    """After a sync that failed, the page cache shows what the disk does not hold."""
    lost = LossyDisk()
    with pytest.raises(ThincowError):
        run(filled, disk=lost)
    run(filled, incremental=True, disk=lost)
    assert lost.only_cached == {}
    assert shown_by(as_store(filled)).startswith(SHOWN)


def test_mounted_store_and_mounted_target_are_refused(filled: EngineStore) -> None:
    run(filled)
    lock = DirectoryLock.acquire(filled.root / "backup", exclusive=False)
    with pytest.raises(StoreInUseError):
        run(filled, incremental=True)
    lock.release()
    filled.open()
    with pytest.raises(StoreInUseError):
        run(filled, "other")
    filled.close()


def test_incremental_backup_writes_what_differs(filled: EngineStore) -> None:
    run(filled)
    filled.open()
    filled.write_blocks("disk", 30, "uv")
    filled.close()
    disk = ScriptedDisk()
    result = run(filled, incremental=True, disk=disk)
    assert (result.contents.copied, result.contents.unchanged) == (2 * BLOCK, 11 * BLOCK)
    written = sum(call.length for call in disk.of("write", name="cowdata"))
    assert written == 2 * BLOCK
    shown = shown_by(as_store(filled))
    assert shown.startswith(SHOWN)
    assert shown[30:32] == "uv"


def test_incremental_backup_gives_space_back(store: EngineStore) -> None:
    store.options["block_size"] = 4096
    store.add("disk", "a" * 64)
    store.open()
    store.write("disk", 0, os.urandom(64 * 4096))
    store.close()
    run(store)
    store.open()
    store.write("disk", 4096, bytes(40 * 4096))
    store.write("disk", 60 * 4096, bytes(4 * 4096))
    store.close()
    run(store, incremental=True)
    copy = as_store(store)
    assert copy.stored_blocks() == 20
    assert copy.cowdata.stat().st_size == 60 * 4096


def test_backup_of_a_store_in_need_of_a_check_is_refused(filled: EngineStore) -> None:
    (filled.data_dir / "check-needed").write_text("a sync failed\n")
    with pytest.raises(ConfigurationError, match="repair"):
        run(filled)
    (filled.data_dir / "check-needed").unlink()


def test_cowdata_that_is_too_short_is_noticed(filled: EngineStore) -> None:
    filled.must_be_sound = False
    os.truncate(filled.cowdata, 4 * BLOCK)
    with pytest.raises(CorruptStoreError, match="fsck"):
        run(filled)


def test_unreadable_contents_are_named(filled: EngineStore) -> None:
    disk = ScriptedDisk()
    disk.fail("clone", "cowdata", errno.EOPNOTSUPP)
    disk.fail("read", "cowdata")
    with pytest.raises(ThincowError, match=r"cowdata cannot be read from byte \d+"):
        run(filled, disk=disk)


def test_mark_that_lost_its_content_says_no_store(filled: EngineStore, tmp_path: Path) -> None:
    target = filled.root / "backup"
    target.mkdir()
    begin_backup(Disk(), target, "", 0)
    with pytest.raises(StoreMismatchError):
        run(filled, incremental=True)


def test_store_without_contents_is_copied(store: EngineStore) -> None:
    store.add("disk", "a" * 40)
    store.open()
    store.close()
    assert run(store).contents.total == 0
    assert shown_by(as_store(store)) == "a" * 40
