"""Flushes of what is hardest: contents that trade places, and devices that fail."""

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.flushing import Way, drop_caches, flush, shown, state, upstream, write
from tests.support.mounting import Mount

BLOCK = 4096
BLOCKS = 16


def blocks_of(content: bytes) -> list[bytes]:
    return [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]


def random_blocks(count: int) -> bytes:
    return os.urandom(count * BLOCK)


@pytest.mark.parametrize(
    ("names", "copies", "between"),
    [
        ("ab", False, "nothing"),
        ("ab", True, "restarted"),
        ("abcd", False, "overwhelmed"),
        ("abcd", True, "overwhelmed"),
    ],
)
@pytest.mark.parametrize("way", Way)
def test_devices_that_trade_places_do_so_upstream(
    mount: Mount, names: str, copies: bool, between: str, way: Way
) -> None:
    chance = random.Random(3)
    contents = {name: random_blocks(BLOCKS) for name in names}
    if len(names) > 2:
        # Duplicates: within a device, and of one device in the other pair.
        for name, source in zip("bcd", "aba", strict=True):
            mixed = blocks_of(contents[name])
            mixed[4:8] = chance.choices(blocks_of(contents[source]), k=4)
            mixed[12:] = mixed[:4]
            contents[name] = b"".join(mixed)
    for name, content in contents.items():
        mount.add(name, content)
    mount.add("extra", bytes(1024 * BLOCK))
    options = ("--hash-table-size", "4K")
    mount.start(*options)
    if copies:
        # Nobody has read the devices yet, so their contents are not known and stored anew.
        write(mount, "extra", b"".join(contents.values()))
        assert int(mount.stats()["COW store references"]) >= BLOCKS
    expected = dict(contents)
    for name in names:
        (mount.devs / name).read_bytes()
    for index, name in enumerate(names):
        pair = names[index ^ 1]
        write(mount, name, contents[pair])
        expected[name] = contents[pair]
        if between == "overwhelmed":
            write(mount, "extra", random_blocks(600), 200 * BLOCK)
        elif between == "restarted":
            mount.restart(*options)
    before = shown(mount)
    assert {name: before[name] for name in names} == expected
    assert flush(mount, way, options=options) == ""
    assert upstream(mount) == before
    assert shown(mount) == before
    assert state(mount) == "clean"
    mount.umount()
    assert mount.cowdata.stat().st_size == 0


@pytest.fixture
def backing(mount: Mount, tmp_path: Path) -> Path:
    """Where the contents of a disk with faults are; `served` serves them as upstream."""
    backing = tmp_path / "backing"
    backing.mkdir()
    (tmp_path / "faulty").mkdir()
    return backing


@contextmanager
def served(mount: Mount, backing: Path, *, writeback: bool = False) -> Iterator[FaultyDisk]:
    """Let the files in `backing` be upstream, on a disk with faults; ends unmounted."""
    with faulty_disk(backing, backing.parent / "faulty", writeback=writeback) as disk:
        for path in backing.iterdir():
            (mount.upstream / path.name).symlink_to(disk.path(path.name))
        yield disk
        mount.umount()


@pytest.mark.parametrize("way", Way)
def test_blocks_that_fail_do_not_keep_others_from_being_flushed(
    mount: Mount, backing: Path, way: Way
) -> None:
    bad = (7, 8, 40)
    old, new = random_blocks(64), random_blocks(64)
    (backing / "disk").write_bytes(old)
    with served(mount, backing) as disk:
        mount.start()
        write(mount, "disk", new)
        disk.fail(*(f"write:{block}" for block in bad))
        message = flush(mount, way)
        assert f"disk: byte {7 * BLOCK}: " in message
        assert "(and 2 more blocks, see the log)" in message
        told = mount.read_log() + message
        assert all(f"disk: byte {block * BLOCK}: " in told for block in bad)
        upstream_now = blocks_of((backing / "disk").read_bytes())
        for block, content in enumerate(upstream_now):
            expected = old if block in bad else new
            assert content == blocks_of(expected)[block]
        assert int(mount.stats()["COW store references"]) == len(bad)
        assert (mount.devs / "disk").read_bytes() == new
        mount.restart()
        drop_caches(mount.cowdata, mount.devs / "disk", backing / "disk")
        assert (mount.devs / "disk").read_bytes() == new
        assert "disk: byte " in flush(mount, way)
        disk.fail()
        assert flush(mount, way) == ""
        assert (state(mount), (backing / "disk").read_bytes()) == ("clean", new)


@pytest.mark.parametrize("fault", ["write", "write:9", "fsync"])
@pytest.mark.parametrize("end", ["umount", "kill"])
@pytest.mark.parametrize("way", Way)
def test_sync_that_fails_after_the_writes_proves_nothing(
    mount: Mount, backing: Path, fault: str, end: str, way: Way
) -> None:
    old, new = random_blocks(32), random_blocks(32)
    (backing / "disk").write_bytes(old)
    with served(mount, backing, writeback=True) as disk:
        mount.start("--retroactive")
        (mount.devs / "disk").read_bytes()
        write(mount, "disk", new)
        disk.fail(fault)
        assert "disk: byte " in flush(mount, way)
        # The cache of the upstream device holds the new contents now. To write them once more must
        # not make anybody believe that the device does.
        for block in range(32):
            write(mount, "disk", new[block * BLOCK :][:BLOCK], block * BLOCK)
        upstream_path = disk.path("disk")
        if end == "kill":
            subprocess.run(["sync", mount.devs / "disk"], check=True)
            mount.kill()
            disk.fail()
            drop_caches(upstream_path)
            mount.start()
        else:
            disk.fail()
            mount.restart()
        drop_caches(upstream_path, mount.cowdata, mount.devs / "disk")
        assert (mount.devs / "disk").read_bytes() == new
        assert state(mount) == "ready"
        assert flush(mount, way) == ""
        assert state(mount) == "clean"
        assert (backing / "disk").read_bytes() == new
        assert (mount.devs / "disk").read_bytes() == new


@pytest.mark.parametrize("way", Way)
def test_block_that_failed_is_written_again_among_others(
    mount: Mount, backing: Path, way: Way
) -> None:
    (backing / "disk").write_bytes(random_blocks(32))
    new = random_blocks(32)
    with served(mount, backing, writeback=True) as disk:
        mount.start()
        write(mount, "disk", new)
        disk.fail("write:9")
        assert "disk: byte " in flush(mount, way)
        disk.fail()
        # The cache of the device holds block 9; its neighbours are in the same batch now.
        for block in (7, 8, 10, 11):
            new = new[: block * BLOCK] + random_blocks(1) + new[(block + 1) * BLOCK :]
            write(mount, "disk", new[block * BLOCK :][:BLOCK], block * BLOCK)
        assert flush(mount, way) == ""
        drop_caches(disk.path("disk"), mount.devs / "disk")
        assert (backing / "disk").read_bytes() == new
        assert (mount.devs / "disk").read_bytes() == new
