"""What a person at the `sqlite3` shell sees of a live mount, in names and bytes."""

import os
from pathlib import Path

import pytest

from tests.support.mounting import Mount, shell
from tests.support.sqlite_shell import SqliteShell

BLOCK = 4096
FIRST = os.urandom(8 * BLOCK)
SECOND = os.urandom(4 * BLOCK + 100)


@pytest.fixture(autouse=True)
def changed(mount: Mount) -> Mount:
    """A live mount of two devices, with some of each kind of change, all of it synced."""
    mount.add("first", FIRST)
    mount.add("second", SECOND)
    mount.start()
    first, second = (os.open(mount.devs / name, os.O_RDWR) for name in ("first", "second"))
    assert os.pread(second, len(SECOND), 0) == SECOND
    new = os.urandom(BLOCK)
    os.pwrite(first, new * 2, 0)
    os.pwrite(first, SECOND[BLOCK : 3 * BLOCK], 3 * BLOCK)
    os.pwrite(second, bytes(BLOCK), 2 * BLOCK)
    os.fsync(first)
    os.close(first)
    os.close(second)
    return mount


def test_device_summary_counts_the_blocks_of_each_device(mount: Mount) -> None:
    columns = "name, type, size_bytes, blocks, original_blocks, remapped_blocks, cow_blocks"
    with SqliteShell(mount.database) as sqlite:
        found = sqlite.run(f"SELECT {columns}, zero_blocks, extents FROM device_summary")
    assert found == [
        f"first|file|{len(FIRST)}|8|4|2|2|0|3",
        f"second|file|{len(SECOND)}|5|4|0|0|1|1",
    ]


def test_extent_list_names_devices_and_bytes(mount: Mount) -> None:
    with SqliteShell(mount.database) as sqlite:
        found = sqlite.run("SELECT * FROM extent_list")
    assert found == [
        f"first|0|{BLOCK}|cow||0",
        f"first|{BLOCK}|{BLOCK}|cow||0",
        f"first|{3 * BLOCK}|{2 * BLOCK}|upstream|second|{BLOCK}",
        f"second|{2 * BLOCK}|{BLOCK}|zero||",
    ]


def test_savings_and_space_use_are_what_statistics_say(mount: Mount) -> None:
    with SqliteShell(mount.database) as sqlite:
        savings = sqlite.run("SELECT * FROM savings")
        columns = "cow_blocks, cow_bytes, free_blocks, cowdata_bytes, cow_references"
        (space,) = sqlite.run(f"SELECT {columns} FROM space_use")
    blocks = {"upstream": 2, "cow": 1, "zero": 1, "total": 4}
    assert savings == [f"{kind}|{count}|{count * BLOCK}" for kind, count in blocks.items()]
    assert space == f"1|{BLOCK}|0|{BLOCK}|2"
    stats = mount.stats()
    assert {
        kind: int(stats[f"Savings {key} blocks"])
        for kind, key in zip(blocks, ("upstream", "COW", "zero", "total"), strict=True)
    } == blocks


def test_views_follow_the_mount(mount: Mount) -> None:
    with SqliteShell(mount.database) as sqlite:
        before = sqlite.run("SELECT * FROM extent_list")
        (mount.devs / "second").write_bytes(SECOND)
        shell("sync", mount.devs / "second")
        assert sqlite.run("SELECT * FROM extent_list") == before[:3]
    mount.umount()
    with SqliteShell(mount.database) as sqlite:
        assert sqlite.run("SELECT * FROM extent_list") == before[:3]


@pytest.mark.parametrize("statement", ["DELETE FROM extents", "UPDATE cow SET refs = 9"])
def test_transaction_that_a_shell_undoes_disturbs_nothing(mount: Mount, statement: str) -> None:
    with SqliteShell(mount.database) as sqlite:
        sqlite.run(f"BEGIN IMMEDIATE; {statement}; ROLLBACK")
        (mount.devs / "first").write_bytes(FIRST)
        shell("sync", mount.devs / "first")
    assert (mount.devs / "first").read_bytes() == FIRST


def test_text_files_and_views_show_the_same_extents(mount: Mount) -> None:
    text = Path(mount.point / "debug/extents.txt").read_text().splitlines()
    with SqliteShell(mount.database) as sqlite:
        rows = sqlite.run("SELECT * FROM extent_list")
    assert [line.replace("\t", "|") for line in text[1:]] == [
        "|".join(field or "-" for field in row.split("|")) for row in rows
    ]
