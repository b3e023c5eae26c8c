"""Flushes to upstream devices that take writes and then fail to sync them, or fail some writes."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letters, numbered
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine.flush_order import FlushOrder
from thincow.errors import FlushError
from thincow.store.disk import Disk


class DoubtfulDisk(Disk):
    """Files in `failing` take writes, which only the page cache keeps: syncs fail.

    As Linux does it: after a sync that failed the pages count as clean. `drop_caches` shows what
    the disk has. Writes of blocks in `bad`, by number, fail.
    """

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.bad: set[int] = set()
        self._paths: dict[int, Path] = {}
        self._on_disk: dict[Path, dict[int, bytes]] = {}
        self._covered: dict[Path, dict[int, bytes]] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        path = self._paths[fd]
        if path.parent.name == "upstream":
            for at in range(0, len(data), BLOCK):
                if (offset + at) // BLOCK in self.bad:
                    raise OSError(errno.EIO, "Input/output error")
                old = os.pread(fd, BLOCK, offset + at)
                self._on_disk.setdefault(path, {}).setdefault(offset + at, old)
        super().write(fd, data, offset)

    def sync_whole(self, fd: int) -> None:
        path = self._paths[fd]
        waiting = self._on_disk.pop(path, {})
        if path.name in self.failing:
            self._covered[path] = waiting | self._covered.get(path, {})
            raise OSError(errno.EIO, "Input/output error")
        lost = self._covered.get(path, {})
        self._covered[path] = {at: old for at, old in lost.items() if at not in waiting}
        super().sync_whole(fd)

    def drop_caches(self) -> None:
        """Forget what was written and is not on disk."""
        for path, blocks in self._covered.items():
            times = path.stat().st_mtime_ns
            with path.open("r+b") as file:
                for offset, old in blocks.items():
                    file.seek(offset)
                    file.write(old)
            os.utime(path, ns=(times, times))
        self._covered.clear()


@pytest.fixture
def disk() -> DoubtfulDisk:
    return DoubtfulDisk()


@pytest.fixture
def store(new_store: NewStore, disk: DoubtfulDisk) -> EngineStore:
    store = new_store(disk=disk)
    store.add("a", "abcdefgh")
    store.add("b", "ijklmnop")
    store.open()
    store.read("a")
    store.read("b")
    store.write_blocks("a", 2, "xyz")
    store.write_blocks("b", 0, "vw")
    return store


def flush(store: EngineStore) -> None:
    store.engine.flush.run(FlushOrder(batch_bytes=2 * BLOCK))


def check_flushed(store: EngineStore, a: str, b: str) -> None:
    assert store.engine.status() == "clean"
    for name, content in (("a", a), ("b", b)):
        assert store.read_blocks(name) == content
        assert (store.upstream_dir / name).read_bytes() == letters(content)


@pytest.mark.parametrize("restarts", [False, True])
def test_failed_sync_leaves_the_blocks_where_they_were(
    store: EngineStore, disk: DoubtfulDisk, restarts: bool
) -> None:
    disk.failing = {"a"}
    with pytest.raises(FlushError, match=r"^a: byte 1024: Input/output error \(and 2 more"):
        flush(store)
    assert store.engine.status().startswith("error\na: byte 1024: ")
    assert store.places("b") == ["own"] * 8
    if restarts:
        store.restart()
    # All of this the page cache holds upstream, and the disk does not.
    store.write_blocks("a", 2, "x")
    store.write_blocks("b", 5, "yz")
    store.engine.commit()
    disk.drop_caches()
    assert (store.upstream_dir / "a").read_bytes() == letters("abcdefgh")
    assert store.read_blocks("a") == "abxyzfgh"
    assert store.read_blocks("b") == "vwklmyzp"
    disk.failing = set()
    flush(store)
    disk.drop_caches()
    check_flushed(store, "abxyzfgh", "vwklmyzp")


def test_blocks_whose_sync_failed_are_written_again_though_they_look_equal(
    store: EngineStore, disk: DoubtfulDisk
) -> None:
    disk.failing = {"a"}
    with pytest.raises(FlushError):
        flush(store)
    disk.failing = set()
    flush(store)
    disk.drop_caches()
    check_flushed(store, "abxyzfgh", "vwklmnop")


def test_bad_blocks_are_told_apart_from_good_ones(store: EngineStore, disk: DoubtfulDisk) -> None:
    disk.bad = {3}
    with pytest.raises(FlushError, match=r"^a: byte 1536: Input/output error$"):
        flush(store)
    assert store.engine.status() == "error\na: byte 1536: Input/output error"
    assert [at for at, place in enumerate(store.places("a")) if place != "own"] == [3]
    store.write_blocks("a", 3, "d")
    assert store.places("a")[3] != "own"
    assert store.read_blocks("a") == "abxdzfgh"
    disk.bad = set()
    flush(store)
    check_flushed(store, "abxdzfgh", "vwklmnop")


def test_nothing_more_is_handed_to_a_disk_after_a_write_failed(new_store: NewStore) -> None:
    content = numbered((8 << 20) // BLOCK)
    disk = ScriptedDisk()
    store = new_store(disk=disk)
    store.add("a", bytes(len(content)))
    store.open()
    store.write("a", 0, content)
    store.engine.commit()
    disk.fail("write", "a", times=1)
    disk.calls.clear()
    store.engine.flush.run(FlushOrder())
    first, second, *_ = disk.of("write", name="a")
    assert first.offset == second.offset == 0
    assert store.read("a") == content
