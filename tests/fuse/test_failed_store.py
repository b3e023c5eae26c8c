"""A store whose disk fails under a mount."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.mounting import Mount, is_mounted, run_thincow

CONTENT = os.urandom(16384)


@pytest.fixture
def store_disk(mount: Mount, tmp_path: Path) -> Iterator[FaultyDisk]:
    """Let `cowdata` lie on a disk that can be made to fail."""
    mount.add("disk", CONTENT)
    mount.metadata = mount.directory / "metadata"
    mount.start("--no-mount")
    backing = tmp_path / "backing"
    mount.data.rename(backing)
    mount.data.mkdir()
    with faulty_disk(backing, mount.data) as disk:
        yield disk
        mount.close()
    mount.check_at_end = False  # done, and the disk is gone


def sync_error(path: Path, data: bytes) -> int:
    """Write and sync; return the errno of what failed."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
        os.fsync(fd)
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(fd)
    return 0


def test_failed_sync_is_told_at_once_and_ever_after(mount: Mount, store_disk: FaultyDisk) -> None:
    mount.start("-o", "direct_io")
    disk = mount.devs / "disk"
    assert sync_error(disk, os.urandom(4096)) == 0
    store_disk.fail("fsync")
    assert sync_error(disk, os.urandom(4096)) == errno.EIO
    store_disk.fail()
    assert sync_error(disk, os.urandom(4096)) in {errno.EIO, errno.EROFS}
    with disk.open("rb", buffering=0) as file:
        file.seek(4096)
        assert file.read() == CONTENT[4096:]
    assert "sync" in mount.read_log()


def test_umount_of_a_failed_store_says_that_changes_are_lost(
    mount: Mount, store_disk: FaultyDisk
) -> None:
    mount.start()
    disk = mount.devs / "disk"
    assert sync_error(disk, b"kept") == 0
    store_disk.fail("fsync")
    assert sync_error(disk, b"lost") == errno.EIO
    store_disk.fail()
    done = run_thincow("umount", mount.point)
    assert done.returncode == 1
    assert "last changes could not be saved" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not is_mounted(mount.point)
    mount.start()
    assert disk.read_bytes() == b"kept" + CONTENT[4:]
