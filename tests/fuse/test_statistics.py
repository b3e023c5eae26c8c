"""The figures of `stats.txt` and `stats-full.txt` follow what clients really do."""

import os
from pathlib import Path

import pytest

from tests.support.mounting import Mount

BLOCK = 4096
CONTENT = os.urandom(16 * BLOCK)
OTHER = os.urandom(6 * BLOCK + 10)


@pytest.fixture(autouse=True)
def disk(mount: Mount) -> Path:
    mount.add("disk", CONTENT)
    mount.add("other", OTHER)
    mount.start("-o", "direct_io")  # every request of a client is one to the mount
    return mount.devs / "disk"


def read_and_write(disk: Path) -> None:
    """Two reads, of 16 and 1 blocks, and writes of each kind: 8 blocks in 5 requests."""
    fd = os.open(disk, os.O_RDWR)
    os.pread(fd, len(CONTENT), 0)
    os.pread(fd, BLOCK, 0)
    os.pwrite(fd, os.urandom(2 * BLOCK), 0)  # new
    os.pwrite(fd, CONTENT[8 * BLOCK : 10 * BLOCK], 2 * BLOCK)  # found by hash, the second as a run
    os.pwrite(fd, bytes(2 * BLOCK), 5 * BLOCK)  # zero
    os.pwrite(fd, CONTENT[12 * BLOCK : 13 * BLOCK], 12 * BLOCK)  # the same again
    os.pwrite(fd, b"part", 15 * BLOCK + 9)
    os.close(fd)


def test_counters_are_exact(mount: Mount, disk: Path) -> None:
    read_and_write(disk)
    for name in ("stats.txt", "stats-full.txt"):
        stats = mount.stats(name)
        assert stats["Device disk FUSE reads"] == "2"
        assert stats["Device disk FUSE writes"] == "5"
        assert stats["Device other FUSE reads"] == "0"
        assert int(stats["Device disk upstream reads"]) > 0
        assert stats["Device other upstream reads"] == "0"
        assert stats["Device disk upstream read errors"] == "0"
        assert stats["Blocks written"] == "8"
        assert stats["Blocks stored"] == "3"
        assert stats["Blocks deduplicated"] == "5"
        assert stats["Blocks deduplicated percent"] == "62.50"
        assert stats["Blocks deduplicated zero"] == "2"
        hashed, run = (
            int(stats[f"Blocks deduplicated by {how}"]) for how in ("hash", "run extension")
        )
        assert (hashed, run) == (2, 1)


def test_full_statistics_tell_where_every_block_is(mount: Mount, disk: Path) -> None:
    read_and_write(disk)
    stats = mount.stats()
    kinds = ("original", "remapped", "zero", "COW")
    assert [stats[f"Device disk blocks {kind}"] for kind in kinds] == ["9", "2", "2", "3"]
    assert [stats[f"Device other blocks {kind}"] for kind in kinds] == ["7", "0", "0", "0"]
    assert [stats[f"Blocks {kind}"] for kind in kinds] == ["16", "2", "2", "3"]
    assert stats["Total blocks"] == "23"
    assert stats["Total bytes"] == str(len(CONTENT) + len(OTHER))
    assert stats["Device other size"] == str(len(OTHER))
    assert stats["COW store blocks"] == "3"
    assert stats["COW store references"] == "3"
    assert stats["Savings total bytes"] == str(4 * BLOCK)


def test_store_outlives_the_mount_and_counters_do_not(mount: Mount, disk: Path) -> None:
    read_and_write(disk)
    before = mount.stats()
    mount.restart()
    after = mount.stats()
    assert after["Blocks written"] == "0"
    assert after["Device disk FUSE writes"] == "0"
    kept = [key for key in before if key.startswith(("Savings", "COW store", "Hash table"))]
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
