"""The kernel's mount table, with its odd spellings."""

from pathlib import Path

import pytest

from thincow.mount import holders, mount_table
from thincow.mount.mount_table import find_mount, read_mount_table

TABLE = b"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
40 22 0:36 / /a\\040b\\134c rw shared:2 - fuse.thincow my\\040name rw,user_id=1000,group_id=10
41 22 0:37 / /mnt rw - tmpfs tmpfs rw,size=10k
42 41 0:38 / /mnt rw - fuse.thincow thincow rw,user_id=0,group_id=0
43 42 7:0 / /mnt/inside rw - ext4 /dev/loop0 rw
"""


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"
    path.write_bytes(TABLE)
    monkeypatch.setattr(mount_table, "_MOUNT_TABLE", path)


def test_entries_are_unescaped() -> None:
    entry = read_mount_table()[1]
    assert entry.path == Path("/a b\\c")
    assert entry.source == "my name"
    assert entry.options["user_id"] == "1000"
    assert entry.is_thincow


def test_uppermost_mount_counts() -> None:
    entry = find_mount(Path("/mnt"))
    assert entry is not None
    assert (entry.device, entry.is_thincow) == ("0:38", True)
    assert find_mount(Path("/nowhere")) is None


def test_mounts_inside_hold_a_mount() -> None:
    assert holders.name_holders(Path("/mnt")) == "ext4 is mounted on /mnt/inside"
