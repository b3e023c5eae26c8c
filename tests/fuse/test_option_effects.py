"""What the options of `thincow mount` do, seen from outside."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.loop_devices import loop_device, mounted
from tests.support.mounting import (
    Mount,
    run_thincow,
    shell,
    thincow_command,
    thincow_environment,
)
from tests.support.sqlite_shell import SqliteShell

BLOCK = 4096
CONTENT = os.urandom(16 * BLOCK)
NEW = os.urandom(3 * BLOCK)


@pytest.fixture(autouse=True)
def disk(mount: Mount) -> Path:
    mount.add("disk", CONTENT)
    return mount.devs / "disk"


def write(path: Path, data: bytes, offset: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY)
    assert os.pwrite(fd, data, offset) == len(data)
    os.close(fd)


@pytest.fixture
def written(mount: Mount, disk: Path) -> Mount:
    """A store, not mounted, with something in it."""
    mount.start()
    write(disk, NEW)
    mount.umount()
    return mount


def assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("thincow: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_fsck_refuses_a_store_that_is_not_sound(written: Mount) -> None:
    assert written.try_start("--fsck").returncode == 0
    written.umount()
    with SqliteShell(written.database) as sqlite:
        sqlite.run("UPDATE cow SET refs = refs + 1")
    assert_one_line(written.try_start("--fsck"), "fsck")
    assert_one_line(written.try_start("--fsck", "--no-mount"), "fsck")
    with SqliteShell(written.database) as sqlite:
        sqlite.run("UPDATE cow SET refs = refs - 1")
    assert written.try_start("--fsck", "--no-mount").returncode == 0


def test_no_mount_takes_no_mount_point(mount: Mount) -> None:
    arguments = mount.arguments("--no-mount")
    assert arguments.pop() == mount.point
    done = run_thincow(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert mount.database.exists()


def test_force_goes_on_with_a_warning(written: Mount, disk: Path) -> None:
    changed = os.urandom(BLOCK)
    with (written.upstream / "disk").open("r+b") as file:
        file.seek(10 * BLOCK)
        file.write(changed)
    assert_one_line(written.try_start(), "disk", "--force")
    done = written.try_start("--force")
    assert done.returncode == 0
    assert "disk" in done.stderr
    assert done.stderr.count("\n") == 1
    assert disk.read_bytes()[: len(NEW)] == NEW
    assert disk.read_bytes()[10 * BLOCK : 11 * BLOCK] == changed


def test_store_of_a_newer_version_is_refused_untouched(written: Mount) -> None:
    with SqliteShell(written.database) as sqlite:
        (version,) = sqlite.run("PRAGMA user_version")
        sqlite.run("PRAGMA user_version = 99")
    before = {path.name: path.read_bytes() for path in written.data.iterdir()}
    for options in ((), ("--force",), ("-R",), ("--no-mount", "--fsck")):
        assert_one_line(written.try_start(*options), "newer")
        assert {path.name: path.read_bytes() for path in written.data.iterdir()} == before
    with SqliteShell(written.database) as sqlite:
        sqlite.run(f"PRAGMA user_version = {version}")
    assert written.try_start("--no-mount").returncode == 0


def test_checksums_switched_on_later_check_from_then_on(written: Mount, disk: Path) -> None:
    written.start("--checksum-bits", "32")
    assert disk.read_bytes() == NEW + CONTENT[len(NEW) :]
    written.restart()  # the store keeps them
    assert disk.read_bytes() == NEW + CONTENT[len(NEW) :]
    written.umount()
    with written.cowdata.open("r+b") as file:
        file.seek(BLOCK)
        file.write(bytes(BLOCK))
    written.start()
    fd = os.open(disk, os.O_RDONLY)
    with pytest.raises(OSError, match="Input/output error"):
        os.pread(fd, BLOCK, BLOCK)
    assert os.pread(fd, BLOCK, 2 * BLOCK) == NEW[2 * BLOCK :]
    os.close(fd)


def test_read_only_upstream_changes_nothing_for_clients(written: Mount, disk: Path) -> None:
    written.start("-r")
    write(disk, b"more", 5 * BLOCK)
    written.restart("-r")
    assert disk.read_bytes()[5 * BLOCK :][:4] == b"more"
    written.umount()
    assert (written.upstream / "disk").read_bytes() == CONTENT


@pytest.mark.needs_root
def test_read_only_mount_works_from_a_read_only_filesystem(written: Mount, disk: Path) -> None:
    image, store = written.directory / "image", written.directory / "store"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    shell("mkfs.ext4", "-q", "-d", written.data, image)
    with loop_device(image) as loop, mounted(loop, store, "-o", "ro"):
        written.data = store
        assert_one_line(written.try_start(), str(store))
        written.start("-R")
        assert disk.read_bytes() == NEW + CONTENT[len(NEW) :]
        assert written.stats()["Blocks COW"] == "3"
        written.umount()
        assert written.fsck().returncode == 0
    written.check_at_end = False


def test_sizes_have_units(mount: Mount) -> None:
    mount.start("--block-size", "1K", "--hash-table-size", "2M", "--max-metadata-size", "1T")
    stats = mount.stats("stats.txt")
    assert stats["Block size"] == "1024"
    assert stats["Hash table capacity"] == str((2 << 20) // 16)


@pytest.mark.parametrize(
    "options",
    [
        ("-o", "debug"),
        ("-o", "direct_io,noatime", "-o", "fsname=mine"),
        ("-o", "allow_other"),
        ("-v",),
    ],
)
def test_option_leaves_a_mount_that_works(
    mount: Mount, disk: Path, options: tuple[str, ...]
) -> None:
    mount.start(*options)
    write(disk, NEW)
    mount.restart(*options)
    assert disk.read_bytes() == NEW + CONTENT[len(NEW) :]


def test_debug_shows_requests_in_the_foreground(mount: Mount, disk: Path) -> None:
    with subprocess.Popen(
        thincow_command(*mount.arguments("-f", "-o", "debug")),
        env=thincow_environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("INIT" in line for line in lines)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
