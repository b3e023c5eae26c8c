"""Looking at a mount while it serves: changes, backups, checks."""

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.loop_devices import loop_device, mounted
from tests.support.mounting import Mount, run_thincow, shell, thincow_command, thincow_environment
from tests.torture.backups import BackupRounds

BLOCK = 4096
MIB = 1 << 20


def write(mount: Mount, name: str, data: bytes, offset: int = 0) -> None:
    fd = os.open(mount.devs / name, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def ranges(*arguments: str | Path) -> list[tuple[str, int, int, str]]:
    """Return what `thincow diff --json` lists: device, offset, length, kind."""
    done = run_thincow("diff", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [
        (device["name"], found["offset_bytes"], found["length_bytes"], found["kind"])
        for device in json.loads(done.stdout)["devices"]
        for found in device["ranges"]
    ]


def back_up(*arguments: str | Path) -> dict[str, int]:
    done = run_thincow("backup", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


@contextmanager
def copy_mounted(new_mount: NewMount, mount: Mount, copy: Path, name: str) -> Iterator[Mount]:
    other = new_mount(name, mount.upstream)
    other.data = copy
    other.start("-R")
    yield other
    other.umount()


def test_diff_of_a_mount_shows_everything_written(mount: Mount) -> None:
    mount.add("disk", os.urandom(64 * BLOCK + 100))
    mount.add("other", os.urandom(8 * BLOCK))
    mount.start()
    old = (mount.devs / "disk").read_bytes()
    write(mount, "disk", os.urandom(3 * BLOCK), 5 * BLOCK)
    write(mount, "disk", bytes(2 * BLOCK), 8 * BLOCK)
    write(mount, "disk", old[: 4 * BLOCK], 20 * BLOCK)
    write(mount, "disk", b"end", 64 * BLOCK + 90)
    expected = [
        ("disk", 5 * BLOCK, 3 * BLOCK, "new"),
        ("disk", 8 * BLOCK, 2 * BLOCK, "zeroed"),
        ("disk", 20 * BLOCK, 4 * BLOCK, "moved"),
        ("disk", 64 * BLOCK, 100, "new"),
    ]
    assert ranges(mount.point) == expected
    assert ranges(mount.point, "--map-only") == expected
    assert ranges(mount.point, "--device", "other") == []
    lines = run_thincow("diff", mount.point).stdout.splitlines()
    assert lines[2] == f"disk\t{20 * BLOCK}\t{4 * BLOCK}\tmoved\tdisk\t0"
    assert lines[-2].startswith(f"disk: {9 * BLOCK + 100} of {64 * BLOCK + 100} bytes changed")
    assert lines[-1] == "other: unchanged"
    assert len(run_thincow("diff", "--summary", mount.point).stdout.splitlines()) == 2
    mount.umount()
    assert ranges("--data-dir", mount.data, "--upstream", mount.upstream) == expected
    assert ranges("--data-dir", mount.data) == expected


def test_diff_leaves_out_what_was_rewritten_as_it_was(mount: Mount) -> None:
    content = os.urandom(16 * BLOCK)
    mount.add("disk", content)
    mount.start()
    write(mount, "disk", content)  # never read, so it is stored
    assert ranges(mount.point) == []
    assert ranges(mount.point, "--map-only") == [("disk", 0, 16 * BLOCK, "new")]


def test_diff_from_a_backup_shows_what_came_later(mount: Mount, tmp_path: Path) -> None:
    mount.add("disk", os.urandom(16 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(4 * BLOCK))
    back_up(mount.point, tmp_path / "copy")
    for _ in range(3):  # COW blocks are used again
        write(mount, "disk", os.urandom(BLOCK), 2 * BLOCK)
    assert ranges(mount.point, "--from", tmp_path / "copy") == [("disk", 2 * BLOCK, BLOCK, "new")]


def test_diff_from_a_backup_that_a_flush_made_invalid_is_refused(
    mount: Mount, tmp_path: Path
) -> None:
    """What was flushed since is upstream's content in both, so it would not be listed."""
    mount.add("disk", os.urandom(16 * BLOCK))
    mount.start()
    back_up(mount.point, tmp_path / "copy")
    write(mount, "disk", os.urandom(BLOCK), 3 * BLOCK)
    assert run_thincow("flush", mount.point).returncode == 0
    where = ("--data-dir", mount.data, "--upstream", mount.upstream)
    for arguments in ((mount.point,), where, where[:2]):
        done = run_thincow("diff", *arguments, "--from", tmp_path / "copy")
        assert (done.returncode, done.stdout) == (1, "")
        assert "copy is not valid any more" in done.stderr
        assert done.stderr.count("\n") == 1
        if arguments == (mount.point,):
            mount.umount()
    back_up("--data-dir", mount.data, tmp_path / "copy", "--incremental")
    assert ranges(*where, "--from", tmp_path / "copy") == []


def test_diff_lists_what_a_repair_changed(mount: Mount, tmp_path: Path) -> None:
    image = mount.upstream / "disk"
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    files = tmp_path / "files"
    files.mkdir()
    for number in range(20):
        (files / f"file{number}").write_bytes(os.urandom(20_000))
    shell("mkfs.ext4", "-q", "-F", "-b", "1024", "-d", files, image)
    with image.open("r+b") as file:  # damage bitmaps and a part of the inode table
        file.seek(70 * 1024)
        file.write(os.urandom(40 * 1024))
    before = image.read_bytes()
    mount.start()
    subprocess.run(["e2fsck", "-fy", mount.devs / "disk"], check=False, stdout=subprocess.DEVNULL)
    after = (mount.devs / "disk").read_bytes()
    assert after != before
    changed = {
        at
        for at in range(0, len(after), BLOCK)
        if after[at : at + BLOCK] != before[at : at + BLOCK]
    }
    listed = {
        offset + at
        for _, offset, length, _ in ranges(mount.point)
        for at in range(0, length, BLOCK)
    }
    assert listed == changed
    assert image.read_bytes() == before


def test_hold_is_shown_and_ends_with_its_file(mount: Mount) -> None:
    mount.add("disk", os.urandom(64 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(64 * BLOCK))
    fd = os.open(mount.point / "debug/hold.json", os.O_RDWR)
    facts = json.loads(os.read(fd, 4096))
    assert facts["data_dir"] == str(mount.data)
    os.write(fd, b"backup\n")
    with pytest.raises(OSError, match="Invalid argument"):
        os.write(fd, b"backup\n")
    write(mount, "disk", os.urandom(64 * BLOCK))
    stats = mount.stats("stats.txt")
    assert stats["Running backups"] == "1"
    assert stats["COW store held blocks"] == "64"
    busy = run_thincow("umount", mount.point)
    assert busy.returncode == 1
    assert str(os.getpid()) in busy.stderr
    os.close(fd)
    deadline = time.monotonic() + 20
    while mount.stats("stats.txt")["COW store held blocks"] != "0":  # closing is asynchronous
        assert time.monotonic() < deadline
    assert "backup: begun" in mount.read_log()
    assert "backup: ended" in mount.read_log()


def test_flush_waits_for_a_hold_and_can_be_cancelled(mount: Mount) -> None:
    old = os.urandom(16 * BLOCK)
    mount.add("disk", old)
    mount.start()
    new = os.urandom(16 * BLOCK)
    write(mount, "disk", new)
    hold = (mount.point / "debug/hold.json").open()
    command = ["dd", f"of={mount.point / 'flush'}", "conv=notrunc"]
    for end in (b"cancel\n", None):
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as flush:
            assert flush.stdin is not None
            flush.stdin.write(b"full\n")
            flush.stdin.close()
            while mount.stats("stats.txt")["Running flushes"] != "1":
                assert flush.poll() is None
            assert (mount.upstream / "disk").read_bytes() == old
            if end is not None:
                (mount.point / "flush").write_bytes(end)
            else:
                hold.close()
        if end is not None:
            assert (mount.upstream / "disk").read_bytes() == old
    assert (mount.upstream / "disk").read_bytes() == new


def test_backups_under_a_writing_and_flushing_client(mount: Mount) -> None:
    rounds = BackupRounds(mount, seed=int.from_bytes(os.urandom(4)))
    print(f"seed {rounds.seed}")
    rounds.run(2)
    mount.umount()
    rounds.kill_the_mount(1)
    print(rounds.totals)


def test_incremental_backup_copies_what_changed(
    mount: Mount, new_mount: NewMount, tmp_path: Path
) -> None:
    size = 64 * MIB
    with mount.add("disk", b"").open("wb") as file:
        file.truncate(size)
    mount.start()
    write(mount, "disk", os.urandom(size))
    copy = tmp_path / "copy"
    assert back_up(mount.point, copy)["contents_bytes"] == size
    for number in range(16):  # 1 % in all
        write(mount, "disk", os.urandom(size // 1600), number * size // 16 // BLOCK * BLOCK)
    figures = back_up(mount.point, copy, "--incremental")
    assert figures["copied_bytes"] <= size * 0.015
    shown = (mount.devs / "disk").read_bytes()
    with copy_mounted(new_mount, mount, copy, "other") as other:
        assert (other.devs / "disk").read_bytes() == shown


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_backup_shares_space_on_a_filesystem_that_can(
    mount: Mount, new_mount: NewMount, tmp_path: Path, kind: str
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(512 * MIB)
    shell(f"mkfs.{kind}", "-q", image)
    mount.add("disk", os.urandom(16 * BLOCK))
    with loop_device(image) as device, mounted(device, tmp_path / "fs") as place:
        mount.data = place / "store"
        mount.start()
        write(mount, "disk", os.urandom(16 * BLOCK))
        write(mount, "disk", bytes(3 * BLOCK), 4 * BLOCK)
        figures = back_up(mount.point, place / "copy")
        assert (figures["shared_bytes"], figures["copied_bytes"]) == (13 * BLOCK, 0)
        shown = (mount.devs / "disk").read_bytes()
        write(mount, "disk", os.urandom(16 * BLOCK))
        with copy_mounted(new_mount, mount, place / "copy", "other") as other:
            assert (other.devs / "disk").read_bytes() == shown
        done = run_thincow("fsck", "--data-dir", place / "copy", "--deep")
        assert done.returncode == 0, done.stdout
        mount.umount()
        assert mount.fsck().returncode == 0
        mount.check_at_end = False


def test_online_check_finds_damage_and_nothing_else(mount: Mount) -> None:
    mount.add("disk", os.urandom(64 * BLOCK))
    mount.start("--checksum-bits", "32")
    write(mount, "disk", os.urandom(64 * BLOCK))
    for options in ((), ("--deep",), ("--deep", "--rate", "1M", "--json")):
        done = run_thincow("fsck", "--online", mount.point, *options)
        assert done.returncode == 0, done.stdout + done.stderr
    with closing(sqlite3.connect(mount.database)) as db, db:
        db.execute("UPDATE cow SET refs = refs + 1")
    done = run_thincow("fsck", "--online", mount.point)
    assert done.returncode == 1
    assert "COUNT_WRONG" in done.stdout
    with closing(sqlite3.connect(mount.database)) as db, db:
        db.execute("UPDATE cow SET refs = refs - 1")
    with mount.cowdata.open("r+b") as file:
        file.seek(10 * BLOCK)
        byte = file.read(1)
        file.seek(10 * BLOCK)
        file.write(bytes([byte[0] ^ 1]))
    assert run_thincow("fsck", "--online", mount.point).returncode == 0
    done = run_thincow("fsck", "--online", mount.point, "--deep")
    assert done.returncode == 1
    assert f"CHECKSUM_CONTENT: device disk, byte {10 * BLOCK}" in done.stdout
    with mount.cowdata.open("r+b") as file:
        file.seek(10 * BLOCK)
        file.write(byte)


def test_check_of_a_mount_that_died_has_examined_nothing(mount: Mount) -> None:
    mount.add("disk", os.urandom(BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(4 * MIB))
    command = thincow_command("fsck", "--online", mount.point, "--deep", "--rate", "1M")
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=thincow_environment()
    ) as check:
        while mount.stats("stats.txt")["Running checks"] != "1":
            time.sleep(0.02)
        mount.kill()
        _, error = check.communicate()
    assert check.returncode == 3, error
    assert "unmounted or its process died" in error


def test_read_only_mount_is_looked_at_without_writing(mount: Mount, tmp_path: Path) -> None:
    mount.add("disk", os.urandom(16 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    mount.restart("-R")
    before = sorted(path.name for path in mount.data.iterdir())
    assert ranges(mount.point) == [("disk", 0, BLOCK, "new")]
    assert run_thincow("fsck", "--online", mount.point, "--deep").returncode == 0
    back_up(mount.point, tmp_path / "copy")
    assert sorted(path.name for path in mount.data.iterdir()) == before


def test_wrong_places_are_named_in_one_line(mount: Mount, tmp_path: Path) -> None:
    mount.add("disk", os.urandom(16 * BLOCK))
    mount.metadata = "-"
    mount.start()
    copy = tmp_path / "copy"
    for arguments in (
        ("diff", tmp_path),
        ("backup", tmp_path, copy),
        ("fsck", "--online", tmp_path),
        ("diff", mount.point),
        ("backup", mount.point, copy),
        ("diff", "--data-dir", tmp_path / "absent"),
        ("backup", "--data-dir", tmp_path, copy),
    ):
        done = run_thincow(*arguments)
        assert done.returncode in (1, 3), arguments
        assert len(done.stderr.splitlines()) == 1
        assert not copy.exists()
    for arguments in (
        ("diff",),
        ("diff", mount.point, "--data-dir", mount.data),
        ("backup", copy),
        ("fsck",),
        ("fsck", "--online", mount.point, "--repair"),
        ("fsck", "--data-dir", mount.data, "--rate", "1M"),
    ):
        assert run_thincow(*arguments).returncode == 2, arguments


@pytest.mark.needs_root
def test_backup_without_room_is_refused_and_completed_later(mount: Mount, tmp_path: Path) -> None:
    mount.add("disk", os.urandom(MIB))
    mount.start()
    write(mount, "disk", os.urandom(MIB))
    small = tmp_path / "small"
    small.mkdir()
    shell("mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", small)
    try:
        done = run_thincow("backup", mount.point, small / "copy")
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert run_thincow("fsck", "--data-dir", small / "copy").returncode == 3
        shell("mount", "-o", "remount,size=8m", small)
        assert back_up(mount.point, small / "copy", "--incremental")["contents_bytes"] == MIB
        assert run_thincow("fsck", "--data-dir", small / "copy", "--deep").returncode == 0
    finally:
        shell("umount", small)


def test_interrupted_backup_says_so_in_its_status(mount: Mount, tmp_path: Path) -> None:
    mount.add("disk", os.urandom(BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    target = tmp_path / "copy"
    with subprocess.Popen(
        thincow_command("backup", mount.point, target), env=thincow_environment()
    ) as process:
        while process.poll() is None and not (target / "backup-incomplete").exists():
            time.sleep(0.001)
        process.send_signal(2)
    assert process.returncode in (0, 130)
    assert (target / "backup-complete").exists() == (process.returncode == 0)
