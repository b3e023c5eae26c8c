"""Stores on really full filesystems: who is told, what goes on, and what is there afterwards."""

import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.directories import photograph
from tests.support.loop_devices import loop_device, mounted
from tests.support.mounting import Mount, shell
from thincow.errors import CommitError
from thincow.store import database, globals_table
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.log_index import LogIndex

pytestmark = pytest.mark.needs_root

PIECE = 64 << 10
DEVICE_BYTES = 256 << 20
FILESYSTEMS = {
    "ext4": (50, ("mkfs.ext4", "-q")),
    "btrfs": (128, ("mkfs.btrfs", "-q")),
    "xfs": (320, ("mkfs.xfs", "-q")),
}


@dataclass
class Filesystem:
    """A small filesystem that can be filled and emptied."""

    kind: str
    path: Path

    @property
    def filler(self) -> Path:
        return self.path / "filler"

    def fill(self, but: int = 0) -> None:
        """Leave not one byte, or about `but` bytes."""
        fd = os.open(self.filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            if but:
                status = os.fstatvfs(fd)
                os.posix_fallocate(fd, 0, status.f_bavail * status.f_frsize - but)
                return
            for size in (1 << 20, 4096, 512):
                write_until_full(fd, bytes(size))
            os.sync()
            write_until_full(fd, bytes(512))
        finally:
            os.close(fd)

    def make_room(self) -> None:
        self.filler.unlink()
        os.sync()  # btrfs gives the space back only with its next transaction


def write_until_full(fd: int, data: bytes) -> None:
    try:
        while True:
            os.write(fd, data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@pytest.fixture(params=FILESYSTEMS)
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Filesystem]:
    """A small filesystem on a loop device, of each kind in turn."""
    size_mib, command = FILESYSTEMS[request.param]
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    with loop_device(image) as device:
        shell(*command, device)
        with mounted(device, tmp_path / "small") as path:
            yield Filesystem(request.param, path)


Place = Callable[[Mount, Filesystem], None]


def both(mount: Mount, small: Filesystem) -> None:
    mount.data = small.path / "data"


def only_data(mount: Mount, small: Filesystem) -> None:
    mount.data = small.path / "data"
    mount.metadata = mount.directory / "metadata"


def only_metadata(mount: Mount, small: Filesystem) -> None:
    mount.metadata = small.path / "metadata"


PLACES = pytest.mark.parametrize("place", [both, only_data, only_metadata])


class Client:
    """Writes new contents one after another, and knows what was synced."""

    def __init__(self, mount: Mount) -> None:
        self.path = mount.devs / "disk"
        self._random = random.Random(7)
        self._synced: dict[int, bytes] = {}
        self._next = 0

    def write(self, size: int = PIECE, *, zeros: bool = False) -> int:
        """Write and sync; return the errno, 0 when all is safe. Zeros are not stored."""
        data = bytes(size) if zeros else self._random.randbytes(size)
        offset, self._next = self._next, self._next + size
        assert self._next <= DEVICE_BYTES
        fd = os.open(self.path, os.O_WRONLY)
        try:
            if os.pwrite(fd, data, offset) < size:
                return errno.ENOSPC  # a cached write that failed after some pages
            os.fsync(fd)
        except OSError as error:
            return error.errno or 0
        finally:
            os.close(fd)
        self._synced[offset] = data
        return 0

    def write_until_refused(self, size: int = PIECE) -> None:
        while (code := self.write(size)) == 0:
            pass
        assert code == errno.ENOSPC

    def write_until_accepted(self) -> None:
        """Do what a patient user does."""
        deadline = time.monotonic() + 10
        while (code := self.write()) != 0:
            assert code == errno.ENOSPC
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def check(self) -> None:
        """Read back what was synced, from the disk as far as possible."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset, data in self._synced.items():
                assert os.pread(fd, len(data), offset) == data, offset
        finally:
            os.close(fd)


def start(mount: Mount, place: Place, small: Filesystem, *options: str) -> Client:
    with mount.add("disk", b"").open("r+b") as file:
        file.truncate(DEVICE_BYTES)
    place(mount, small)
    mount.start(*options)
    return Client(mount)


@pytest.fixture
def mount(tmp_path: Path, small: Filesystem) -> Iterator[Mount]:
    """A store that is taken down before the filesystem is."""
    mount = Mount(tmp_path / "store")
    yield mount
    mount.close()


@PLACES
def test_full_disk_refuses_writes_and_nothing_else(
    mount: Mount, small: Filesystem, place: Place
) -> None:
    client = start(mount, place, small)
    for _ in range(4):
        assert client.write() == 0
    pid = mount.pid
    small.fill()
    client.write_until_refused()
    client.check()
    small.make_room()
    client.write_until_accepted()
    assert client.write() == 0
    small.fill()  # and now it stays full
    client.write_until_refused()
    for _ in range(3):
        client.write(zeros=True)
    client.check()
    assert mount.pid == pid
    assert "a write was refused" in mount.read_log()
    # It was a write that failed, on btrfs too: a failed sync would have been final.
    assert "nothing is written any more" not in mount.read_log()
    mount.umount()
    assert mount.fsck().returncode == 0
    small.fill()  # also what the reserve took
    files = photograph(mount.database.parent)
    done = mount.try_start()
    if place is not only_data:
        assert done.returncode == 1
        assert "no space is left for the metadata" in done.stderr
        assert done.stderr.count("\n") == 1
        assert photograph(mount.database.parent) == files
    else:
        mount.umount()
    mount.start("--read-only")
    client.check()


@pytest.mark.parametrize("small", ["btrfs"], indirect=True)
def test_store_that_was_killed_on_a_full_disk_can_be_read(mount: Mount, small: Filesystem) -> None:
    client = start(mount, both, small)
    assert client.write() == 0
    small.fill()
    client.write_until_refused()
    client.write(zeros=True)
    mount.kill()
    small.fill()  # also what was kept back for the last commit
    assert "no space is left for the metadata" in mount.try_start().stderr
    mount.start("--read-only")
    client.check()
    mount.umount()
    small.make_room()
    mount.start()
    client.check()
    client.write_until_accepted()


def test_store_fills_the_disk_itself(mount: Mount, small: Filesystem) -> None:
    client = start(mount, both, small)
    small.fill(but=20 << 20)
    client.write_until_refused(1 << 20)
    client.write_until_refused(4096)
    log = mount.read_log()
    assert 0 < log.index("space runs low") < log.index("a write was refused")
    client.check()
    mount.restart()
    client.check()


@pytest.mark.parametrize("small", ["btrfs"], indirect=True)
@pytest.mark.parametrize("is_ours", [True, False], ids=["index-ours", "index-of-others"])
def test_full_btrfs_does_not_kill_who_changes_the_index_of_the_log(
    mount: Mount, small: Filesystem, is_ours: bool
) -> None:
    client = start(mount, both, small)
    assert client.write() == 0
    mount.kill()
    if not is_ours:
        index = mount.data / "metadata.db-shm"
        index.unlink()
        index.touch()  # as a program leaves it that knows nothing of attributes
    mount.start()
    assert client.write() == 0
    pid = mount.pid
    small.fill()
    for _ in range(5):
        client.write(zeros=True)
        os.sync()  # makes the pages clean again, so that the next change takes space again
    client.write_until_refused()
    client.check()
    assert shell("sqlite3", mount.database, "SELECT count(*) FROM extent_list") != "0\n"
    assert mount.pid == pid
    small.make_room()
    client.write_until_accepted()
    mount.umount()
    names = sorted(path.name for path in mount.data.iterdir())
    assert names == ["cowdata", "cowdata.id", "metadata.db"]


@pytest.mark.parametrize("small", ["btrfs"], indirect=True)
@pytest.mark.parametrize("is_ours", [True, False], ids=["index-ours", "index-of-others"])
def test_index_is_changed_in_place_or_found_unchangeable(small: Filesystem, is_ours: bool) -> None:
    path = small.path / "metadata.db"
    facts = Globals("0" * 32, 512, 4, 0, clean=True, hash_entries=0, checksum_bits=0)
    database.create(Disk(), path, facts)
    if not is_ours:
        path.with_name("metadata.db-shm").touch()
    with closing(database.open_database(path)) as opened:
        globals_table.load(opened.reader)
        index = LogIndex(path)
        index.secure(0)
        small.fill()
        with nullcontext() if is_ours else pytest.raises(CommitError):
            index.secure(0)
        small.make_room()
        index.secure(0)
