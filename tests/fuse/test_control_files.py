"""The virtual files: rendered at open, readable by ordinary tools."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.mounting import Mount, shell

VIRTUAL = (
    "stats.txt",
    "stats-full.txt",
    "debug/extents.txt",
    "debug/cow.txt",
    "debug/flush-plan.json",
    "debug/hash-table.txt",
    "debug/pid.txt",
    "debug/hold.json",
    "flush",
)


@pytest.fixture(autouse=True)
def disk(mount: Mount) -> Path:
    mount.add("disk", os.urandom(8 * 4096))
    return mount.devs / "disk"


def test_tree_has_exactly_its_names(mount: Mount) -> None:
    mount.start()
    found = sorted(str(path.relative_to(mount.point)) for path in mount.point.rglob("*"))
    assert found == sorted([*VIRTUAL, "debug", "devs", "devs/disk"])


@pytest.mark.parametrize("name", VIRTUAL)
def test_virtual_files_are_read_by_tools(mount: Mount, name: str) -> None:
    mount.start()
    file = mount.point / name
    content = file.read_text()
    assert shell("cat", file) == content
    assert shell("dd", f"if={file}", "bs=7", "status=none") == content
    assert shell("grep", "", file, check=False) == content
    assert shell("tail", "-n", "+1", file) == content
    shell("cp", file, mount.directory / "copy")
    assert (mount.directory / "copy").read_text() == content


def test_one_handle_sees_one_state(mount: Mount, disk: Path) -> None:
    mount.start()
    with (mount.point / "stats-full.txt").open("rb", buffering=0) as handle:
        before = handle.read()
        with disk.open("r+b") as file:
            file.write(os.urandom(4096))
        handle.seek(0)
        assert handle.read() == before
    assert (mount.point / "stats-full.txt").read_bytes() != before


def test_full_statistics_count_what_was_just_written(mount: Mount, disk: Path) -> None:
    mount.start()
    with disk.open("r+b") as file:
        file.write(os.urandom(4096))
    assert "cow" in (mount.point / "debug/extents.txt").read_text().lower()


@pytest.mark.parametrize("temporary", [False, True])
def test_reports_go_through_the_temporary_directory(mount: Mount, temporary: bool) -> None:
    directory = mount.directory / "tmp"
    directory.mkdir()
    mount.start(*(("--temp-dir", directory) if temporary else ()))
    with (mount.point / "stats-full.txt").open() as handle:
        assert handle.read()
    assert list(directory.iterdir()) == []


def test_flush_answers_its_state_and_other_files_take_no_commands(mount: Mount, disk: Path) -> None:
    mount.start()
    flush = mount.point / "flush"
    assert flush.read_text() == "clean\n"
    with pytest.raises(OSError, match="not supported") as caught:
        (mount.point / "stats.txt").write_text("full\n")
    assert caught.value.errno == errno.ENOTSUP
    with disk.open("r+b") as file:
        file.write(os.urandom(4096))
    assert flush.read_text() == "ready\n"


def test_virtual_files_cannot_be_written(mount: Mount) -> None:
    mount.start()
    with (
        pytest.raises(OSError, match=r"not supported|denied"),
        (mount.point / "stats.txt").open("wb", 0) as file,
    ):
        file.write(b"x")


def test_virtual_files_work_while_clients_write(mount: Mount, disk: Path) -> None:
    mount.start()
    with disk.open("r+b", buffering=0) as file:
        for number in range(40):
            os.pwrite(file.fileno(), os.urandom(4096), number % 8 * 4096)
            assert (mount.point / "stats-full.txt").read_text()
