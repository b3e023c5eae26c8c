"""Flushes of devices with blocks that cannot be read, or not written at the first attempt."""

import errno
import random
import time
from pathlib import Path

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine.flush_order import FlushOrder
from thincow.engine.options import Tuning
from thincow.errors import FlushError
from thincow.store.disk import Disk

BLOCKS = 32
MIB = 1 << 20


class ScratchedDisk(Disk):
    """Reads of some blocks upstream fail: `bad` has names of devices and numbers of blocks."""

    def __init__(self) -> None:
        self.bad: set[tuple[str, int]] = set()
        self.failures = 0
        self.slow_write_s = 0.0
        self._paths: dict[int, Path] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def read(self, fd: int, length: int, offset: int) -> bytes:
        self._check(fd, length, offset)
        return super().read(fd, length, offset)

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> bool:
        self._check(fd, len(buffer), offset)
        return super().read_cached(fd, buffer, offset)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        time.sleep(self.slow_write_s)
        super().write(fd, data, offset)

    def _check(self, fd: int, length: int, offset: int) -> None:
        for name, number in self.bad:
            at = number * BLOCK
            if self._paths[fd].name == name and offset < at + BLOCK and at < offset + length:
                self.failures += 1
                raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def disk() -> ScratchedDisk:
    return ScratchedDisk()


def random_blocks(seed: int) -> list[bytes]:
    print(f"seed {seed}")
    choose = random.Random(seed)
    return [choose.randbytes(BLOCK) for _ in range(BLOCKS)]


def dirty_blocks(store: EngineStore, name: str) -> list[int]:
    return [at for at, place in enumerate(store.places(name)) if place != "own"]


def flush_to_the_end(store: EngineStore, disk: ScratchedDisk, shown: dict[str, bytes]) -> None:
    """Flush once all blocks can be read again."""
    disk.bad.clear()
    store.engine.flush.run(FlushOrder())
    assert store.engine.status() == "clean"
    for name, content in shown.items():
        assert store.read(name) == content
        assert (store.upstream_dir / name).read_bytes() == content


def swapped(
    new_store: NewStore, disk: ScratchedDisk, spare: int | None, seed: int
) -> tuple[EngineStore, bytes, bytes]:
    """Return a store whose devices a and b were swapped, and what they held before."""
    store = new_store(disk=disk, max_cow_blocks=spare)
    a, b = (b"".join(random_blocks(number)) for number in (seed, seed + 1))
    for name, content in (("a", a), ("b", b)):
        store.add(name, content)
    store.open()
    for name in "ab":
        store.read(name)
    store.write("a", 0, b)
    store.write("b", 0, a)
    return store, a, b


@pytest.mark.parametrize("spare", [0, 1, 2, None])
def test_unreadable_block_in_a_chain_keeps_only_its_neighbour(
    new_store: NewStore, disk: ScratchedDisk, spare: int | None
) -> None:
    store = new_store(disk=disk, max_cow_blocks=None if spare is None else 1 + spare)
    old = random_blocks(1)
    store.add("a", b"".join(old))
    store.open()
    store.read("a")
    new = [random.Random(2).randbytes(BLOCK), *old[:-1]]
    for number in reversed(range(BLOCKS)):
        store.write("a", number * BLOCK, new[number])
    disk.bad = {("a", 5)}
    with pytest.raises(FlushError, match=rf"^a: .*byte {5 * BLOCK}: .*Input/") as caught:
        store.engine.flush.run(FlushOrder())
    assert caught.value.code == errno.EIO
    # Block 6 shows what cannot be read, which is in the place of block 5.
    left = dirty_blocks(store, "a")
    assert left == (list(range(7)) if spare == 0 else [5, 6])
    assert store.places("a")[6] == "a 5"
    assert store.read("a", 0, 6 * BLOCK) == b"".join(new[:6])
    assert store.read("a", 7 * BLOCK) == b"".join(new[7:])
    flush_to_the_end(store, disk, {"a": b"".join(new)})


def test_what_is_being_written_stays_as_it_is_while_other_blocks_cannot_be_read(
    new_store: NewStore, disk: ScratchedDisk
) -> None:
    store = new_store(disk=disk)
    old = random_blocks(5)
    for name in "ab":
        store.add(name, b"".join(old) if name == "a" else bytes(BLOCKS * BLOCK))
    store.open()
    store.read("a")
    new = random_blocks(6)
    # Every other block: single ones of new content, and of what cannot be read.
    for number in range(0, BLOCKS, 2):
        store.write("b", number * BLOCK, new[number] if number % 4 else old[number])
    disk.bad = {("a", number) for number in range(0, BLOCKS, 4)}
    disk.slow_write_s = 0.002
    with pytest.raises(FlushError, match="Input/output error"):
        store.engine.flush.run(FlushOrder())
    written = (store.upstream_dir / "b").read_bytes()
    for number in range(2, BLOCKS, 4):
        assert written[number * BLOCK :][:BLOCK] == new[number]
    disk.slow_write_s = 0.0
    shown = [new[at] if at % 4 else old[at] for at in range(0, BLOCKS, 2)]
    flush_to_the_end(store, disk, {"b": b"".join(block + bytes(BLOCK) for block in shown)})


@pytest.mark.parametrize("spare", [3, None])
def test_unreadable_block_in_a_cycle_keeps_only_that_cycle(
    new_store: NewStore, disk: ScratchedDisk, spare: int | None
) -> None:
    store, a, b = swapped(new_store, disk, spare, seed=3)
    disk.bad = {("b", 3), ("b", 20)}
    with pytest.raises(FlushError, match=rf"b: byte {3 * BLOCK}: .*Input/output error"):
        store.engine.flush.run(FlushOrder())
    assert dirty_blocks(store, "a") == [3, 20]
    assert dirty_blocks(store, "b") == [3, 20]
    assert store.places("a")[3] == "b 3"
    store.restart()
    flush_to_the_end(store, disk, {"a": b, "b": a})


@pytest.mark.parametrize("spare", [1, 2])
def test_copies_for_cycles_that_cannot_be_opened_may_take_all_room(
    new_store: NewStore, disk: ScratchedDisk, spare: int
) -> None:
    store, a, b = swapped(new_store, disk, spare, seed=8)
    disk.bad = {("b", 3), ("b", 20)}
    with pytest.raises(FlushError, match=rf"byte {3 * BLOCK}: .*Input/output error"):
        store.engine.flush.run(FlushOrder())
    assert {3, 20} <= set(dirty_blocks(store, "a"))
    assert store.read("b") == a
    flush_to_the_end(store, disk, {"a": b, "b": a})


def test_unreadable_block_is_named_when_a_full_store_has_no_room_for_cycles(
    new_store: NewStore, disk: ScratchedDisk
) -> None:
    store = new_store(disk=disk, max_cow_blocks=0)
    a, b = b"".join(random_blocks(5)), b"".join(random_blocks(6))
    for name, content in (("a", a), ("b", b)):
        store.add(name, content)
    store.open()
    for name in "ab":
        store.read(name)
    store.write("a", 0, b[: 4 * BLOCK])
    store.write("b", 0, a[: 2 * BLOCK])
    disk.bad = {("b", 2)}
    with pytest.raises(FlushError) as caught:
        store.engine.flush.run(FlushOrder())
    assert str(caught.value).startswith(
        f"a: byte {2 * BLOCK}: its content cannot be read, b: byte {2 * BLOCK}: Input"
    )
    assert dirty_blocks(store, "a") == [0, 1, 2]
    disk.bad.clear()
    with pytest.raises(FlushError, match="no space") as caught:
        store.engine.flush.run(FlushOrder())
    assert caught.value.code == errno.ENOSPC
    assert dirty_blocks(store, "a") == [0, 1]


def test_unreadable_block_that_a_client_overwrites_is_no_failure(
    new_store: NewStore, disk: ScratchedDisk
) -> None:
    store = new_store(disk=disk)
    old = random_blocks(7)
    store.add("a", b"".join(old))
    store.open()
    store.read("a")
    store.write("a", BLOCK, b"".join(old[:-1]))
    store.write_blocks("a", 0, "x")
    disk.bad = {("a", 5)}
    has_written = False

    def client() -> None:
        nonlocal has_written
        if disk.failures and not has_written:
            has_written = True
            store.write_blocks("a", 6, "y")

    store.engine.flush.run(FlushOrder(), client)
    assert has_written
    assert store.engine.status() == "clean"


@pytest.mark.parametrize("kind", ["write", "sync_whole"])
def test_failure_that_does_not_come_back_names_no_block(new_store: NewStore, kind: str) -> None:
    disk = ScriptedDisk()
    store = new_store(disk=disk)
    store.add("a", "abcdefgh")
    store.open()
    for number in (1, 3, 5):
        store.write_blocks("a", number, "x")
    disk.fail(kind, "a", times=2)
    store.engine.flush.run(FlushOrder())
    assert store.engine.status() == "clean"


def test_failing_block_is_told_from_one_that_pays_for_it(new_store: NewStore) -> None:
    """A kernel that keeps what it could not write tells of it at the next sync, whosever it is."""
    disk = LateDisk()
    store = new_store(disk=disk)
    store.add("a", "abcdefgh")
    store.open()
    for number in (1, 3, 5):
        store.write_blocks("a", number, "x")
    disk.bad = 3
    with pytest.raises(FlushError, match=rf"^a: byte {3 * BLOCK}: Input/output error$"):
        store.engine.flush.run(FlushOrder())
    assert dirty_blocks(store, "a") == [3]
    disk.bad = None
    store.engine.flush.run(FlushOrder())
    assert store.engine.status() == "clean"


class LateDisk(ScriptedDisk):
    """A write of block `bad` makes the next two syncs fail."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: int | None = None

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        super().write(fd, data, offset)
        if offset // BLOCK == self.bad and self._names[fd] == "a":
            self.mend()
            self.fail("sync_whole", "a", times=2)


def test_entries_of_good_blocks_stay_where_one_cannot_be_read(
    new_store: NewStore, disk: ScratchedDisk
) -> None:
    """More pieces than there are buffers: that of the bad block holds older contents."""
    store = new_store(disk=disk)
    blocks, bad, piece = 13_000, 12_000, MIB // BLOCK
    content = random.Random(1).randbytes(blocks * BLOCK)
    store.add("a", bytes(len(content)))
    store.add("b", bytes(BLOCK))
    store.open(tuning=Tuning())
    for at in range(0, len(content), MIB):
        store.write("a", at, content[at : at + MIB])
    disk.bad = {("cowdata", bad)}
    with pytest.raises(FlushError, match="byte"):
        store.engine.flush.run(FlushOrder())
    disk.bad.clear()
    for number in range(bad % piece, bad, piece):
        store.write("b", 0, content[number * BLOCK : (number + 1) * BLOCK])
        assert store.places("b") == [f"a {number}"]
