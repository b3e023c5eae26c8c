"""Flushes that are cancelled, frozen or ended while the disk below does not answer."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.flushing import command, drop_caches, shown, state, write
from tests.support.mounting import Mount, wait_for_end

BLOCK = 4096
BLOCKS = 64
_WAIT_S = 0.5
"""What takes effect only once a read has returned has not happened after so long either."""


@pytest.fixture
def moved(mount: Mount, tmp_path: Path) -> Iterator[tuple[Mount, FaultyDisk, Path]]:
    """A mount in which a shows what is upstream in b, and b is new."""
    backing = tmp_path / "backing"
    for directory in (backing, tmp_path / "faulty"):
        directory.mkdir()
    contents = {name: os.urandom(BLOCKS * BLOCK) for name in "ab"}
    for name, content in contents.items():
        (backing / name).write_bytes(content)
    with faulty_disk(backing, tmp_path / "faulty") as disk:
        for name in "ab":
            (mount.upstream / name).symlink_to(disk.path(name))
        mount.start()
        (mount.devs / "b").read_bytes()
        write(mount, "a", contents["b"])
        write(mount, "b", os.urandom(BLOCKS * BLOCK))
        assert mount.stats()["COW store references"] == str(BLOCKS)
        yield mount, disk, backing
        disk.fail()
        mount.umount()


def begin_hung_flush(mount: Mount, disk: FaultyDisk, pool: ThreadPoolExecutor) -> Future[int]:
    """Begin a flush of everything, of which nothing is in memory; it then waits for a read of b."""
    drop_caches(disk.path("a"), disk.path("b"))
    disk.fail("hold-read")
    flush = pool.submit(command, mount, "full\n")
    while not disk.has_held_read:
        assert not flush.done()
        time.sleep(0.01)
    return flush


def finish(mount: Mount, backing: Path, before: dict[str, bytes]) -> None:
    assert shown(mount) == before
    assert command(mount, "full\n") == 0
    assert state(mount) == "clean"
    assert {path.name: path.read_bytes() for path in backing.iterdir()} == before


def test_cancel_returns_though_a_read_hangs(moved: tuple[Mount, FaultyDisk, Path]) -> None:
    mount, disk, backing = moved
    before = shown(mount)
    with ThreadPoolExecutor(1) as pool:
        flush = begin_hung_flush(mount, disk, pool)
        assert command(mount, "cancel\n") == 0
        # Others are served meanwhile.
        assert int(mount.stats()["COW store references"]) == BLOCKS
        write(mount, "a", before["a"][:BLOCK])
        assert state(mount).startswith("flushing 0 ")
        assert not flush.done()
        disk.fail()
        assert flush.result() == 0
    # Only the batch that was being read for has been written.
    assert state(mount) == "ready"
    finish(mount, backing, before)


def test_freeze_waits_for_a_read_that_hangs(moved: tuple[Mount, FaultyDisk, Path]) -> None:
    mount, disk, backing = moved
    before = shown(mount)
    pid = mount.pid
    with ThreadPoolExecutor(1) as pool:
        flush = begin_hung_flush(mount, disk, pool)
        os.kill(pid, signal.SIGTSTP)
        time.sleep(_WAIT_S)
        assert not is_stopped(pid)
        assert int(mount.stats()["COW store references"]) == BLOCKS
        disk.fail()
        while not is_stopped(pid):
            time.sleep(0.01)
        os.kill(pid, signal.SIGCONT)
        assert flush.result() == 0
    assert state(mount) == "clean"
    finish(mount, backing, before)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_ended_flush_goes_on_in_the_next_mount(moved: tuple[Mount, FaultyDisk, Path]) -> None:
    mount, disk, backing = moved
    before = shown(mount)
    pid = mount.pid
    with ThreadPoolExecutor(1) as pool:
        flush = begin_hung_flush(mount, disk, pool)
        os.kill(pid, signal.SIGTERM)
        time.sleep(_WAIT_S)
        assert not flush.done()
        disk.fail()
        with suppress(OSError):  # the mount has ended
            flush.result()
    wait_for_end(pid)
    mount.start()
    assert state(mount) == "ready"
    finish(mount, backing, before)
