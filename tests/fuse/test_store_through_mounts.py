"""A store over the lives of its mounts: restoring, read-only use, kills, quotas, checksums."""

import errno
import mmap
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mounting import Mount, run_thincow, shell, thincow_command, thincow_environment
from tests.support.sqlite_shell import SqliteShell

BLOCK = 4096
BLOCKS = 64
CONTENT = os.urandom(BLOCKS * BLOCK)


@pytest.fixture(autouse=True)
def disk(mount: Mount) -> Path:
    mount.add("disk", CONTENT)
    return mount.devs / "disk"


def write(path: Path, data: bytes, offset: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
    finally:
        os.close(fd)


def cow_blocks(mount: Mount) -> int:
    return mount.cowdata.stat().st_size // BLOCK


def test_restoring_makes_the_map_all_identity(mount: Mount, disk: Path) -> None:
    mount.start()
    assert disk.read_bytes() == CONTENT  # makes the content known
    write(disk, os.urandom(len(CONTENT)))
    assert (mount.point / "flush").read_text() == "ready\n"
    write(disk, CONTENT)
    assert (mount.point / "flush").read_text() == "clean\n"
    mount.restart()
    assert (mount.point / "flush").read_text() == "clean\n"
    assert disk.read_bytes() == CONTENT
    mount.umount()
    assert cow_blocks(mount) == 0


def test_writing_the_same_costs_nothing(mount: Mount, disk: Path) -> None:
    mount.start()
    write(disk, disk.read_bytes())
    mount.umount()
    assert cow_blocks(mount) == 0


@pytest.mark.parametrize("options", [("-R",), ("-o", "ro")], ids=["option", "fuse-option"])
def test_read_only_mount_changes_nothing(
    mount: Mount, disk: Path, options: tuple[str, ...]
) -> None:
    mount.start()
    new = os.urandom(10_000)
    write(disk, new, 5000)
    mount.umount()
    before = {path.name: (path.read_bytes(), path.stat()) for path in mount.data.iterdir()}
    mount.start(*options)
    assert disk.read_bytes() == CONTENT[:5000] + new + CONTENT[15_000:]
    assert disk.stat().st_mode & 0o777 == 0o400
    for name in ("stats.txt", "stats-full.txt", "debug/extents.txt", "flush"):
        assert (mount.point / name).read_text()
    with pytest.raises(OSError, match="Read-only"):
        os.open(disk, os.O_RDWR)
    with pytest.raises(OSError, match="Read-only"):
        os.truncate(disk, 0)
    mount.umount()
    assert {path.name: (path.read_bytes(), path.stat()) for path in mount.data.iterdir()} == before


def test_read_only_mount_after_a_kill_shows_what_was_synced(mount: Mount, disk: Path) -> None:
    mount.start()
    write(disk, b"synced")
    shell("sync", disk)
    mount.kill()
    before = {path.name: path.read_bytes() for path in mount.data.iterdir()}
    assert "metadata.db-wal" in before
    mount.start("-R")
    assert disk.read_bytes() == b"synced" + CONTENT[6:]
    mount.umount()
    assert {path.name: path.read_bytes() for path in mount.data.iterdir()} == before
    mount.start()
    mount.umount()


def test_read_only_mount_needs_a_store(mount: Mount) -> None:
    done = mount.try_start("-R")
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert not mount.data.exists()


def test_killed_process_loses_nothing_that_was_synced(mount: Mount, disk: Path) -> None:
    mount.start("--block-size", "512")
    expected = bytearray(CONTENT)
    for number in range(5):
        for _ in range(20):
            offset = int.from_bytes(os.urandom(2)) % (len(CONTENT) - 3000)
            data = os.urandom(3000)
            write(disk, data, offset)
            expected[offset : offset + 3000] = data
        shell("sync", disk)
        mount.kill()
        mount.start()
        assert disk.read_bytes() == expected, f"after kill {number}"


def test_sync_makes_contents_durable_before_metadata(mount: Mount, disk: Path) -> None:
    """A killed process leaves the page cache alone: only its system calls show the order."""
    trace = mount.directory / "trace"
    server = subprocess.Popen(
        [
            *("strace", "-f", "-y", "-e", "trace=fdatasync,fsync,writev,pwrite64", "-o", trace),
            *thincow_command(*mount.arguments("-f")),
        ],
        env=thincow_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (mount.point / "stats.txt").exists():
            assert server.poll() is None
        fd = os.open(disk, os.O_WRONLY)
        begin = trace.stat().st_size
        os.pwrite(fd, os.urandom(BLOCK), 0)
        os.fdatasync(fd)
        os.close(fd)
        calls = trace.read_bytes()[begin:].decode(errors="replace")
    finally:
        os.kill(mount.pid, signal.SIGTERM)
        server.wait(60)
    order = [
        r"pwrite64\(\d+<[^>]*/cowdata>",
        r"fdatasync\(\d+<[^>]*/cowdata>",
        r"pwrite64\(\d+<[^>]*/metadata\.db-wal>",
        r"f(data)?sync\(\d+<[^>]*/metadata\.db-wal>",
        r"writev\(\d+</dev/fuse>",
    ]
    assert re.search(".*".join(order), calls, re.DOTALL), calls


def test_quota_of_blocks_gives_no_space_and_goes_on(mount: Mount, disk: Path) -> None:
    mount.start("--max-cow-blocks", "8")
    assert disk.read_bytes() == CONTENT  # makes the content known
    write(disk, os.urandom(8 * BLOCK))
    shell("sync", disk)
    with pytest.raises(OSError, match="No space left"):
        write(disk, os.urandom(BLOCK), 10 * BLOCK)
    assert disk.read_bytes()[8 * BLOCK :] == CONTENT[8 * BLOCK :]
    write(disk, bytes(BLOCK), 10 * BLOCK)
    write(disk, CONTENT[: 4 * BLOCK])
    shell("sync", disk)
    write(disk, os.urandom(BLOCK), 20 * BLOCK)
    mount.restart("--max-cow-blocks", "8")
    assert disk.read_bytes()[: 4 * BLOCK] == CONTENT[: 4 * BLOCK]


def test_quota_of_metadata_gives_no_space_and_goes_on(mount: Mount, disk: Path) -> None:
    mount.add("large", bytes(64 << 20))
    mount.start("--max-metadata-size", "256K", "--block-size", "512")
    large = mount.devs / "large"
    fd = os.open(large, os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"):  # noqa: PT012 - any of them may be the one
        for number in range(20_000):
            os.pwrite(fd, number.to_bytes(512, "little") if number else b"x", number * 2 * 512)
            if number % 500 == 0:
                os.fsync(fd)
    os.close(fd)
    assert disk.read_bytes() == CONTENT
    assert mount.database.stat().st_size <= 256 << 10
    shell("fusermount3", "-u", mount.point)


def test_unmount_keeps_a_mount_whose_changes_cannot_be_saved(mount: Mount, disk: Path) -> None:
    mount.start()
    with SqliteShell(mount.database) as sqlite:
        write(disk, os.urandom(BLOCK))
        sqlite.run("BEGIN IMMEDIATE")
        done = run_thincow("umount", mount.point)
        assert done.returncode == 1
        assert "stays mounted" in done.stderr
        sqlite.run("ROLLBACK")
    mount.umount()


def flip(path: Path, offset: int) -> None:
    fd = os.open(path, os.O_RDWR)
    byte = os.pread(fd, 1, offset)
    os.pwrite(fd, bytes([byte[0] ^ 1]), offset)
    os.close(fd)


@pytest.mark.parametrize("bits", ["8", "16", "32", "64"])
def test_checksum_finds_a_changed_byte_of_either_side(mount: Mount, disk: Path, bits: str) -> None:
    mount.start("--checksum-bits", bits)
    assert disk.read_bytes() == CONTENT  # from here on upstream is known
    new = os.urandom(4 * BLOCK)
    write(disk, new)
    mount.umount()
    times = (mount.upstream / "disk").stat()
    flip(mount.cowdata, BLOCK + 7)
    flip(mount.upstream / "disk", 20 * BLOCK + 7)
    os.utime(mount.upstream / "disk", ns=(times.st_atime_ns, times.st_mtime_ns))
    mount.start("--force")
    bad = []
    fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)
    for block in range(BLOCKS):
        try:
            shown = read_aligned(fd, block)
        except OSError as error:
            bad.append((block, error.errno))
        else:
            assert shown == (new + CONTENT[len(new) :])[block * BLOCK :][:BLOCK]
    os.close(fd)
    assert bad == [(1, errno.EIO), (20, errno.EIO)]
    assert int(mount.stats()["Checksum errors"]) >= 2
    assert f"byte {20 * BLOCK}" in mount.read_log()
    assert "disk" in mount.read_log()


def read_aligned(fd: int, block: int) -> bytes:
    with mmap.mmap(-1, BLOCK) as buffer:
        os.preadv(fd, [buffer], block * BLOCK)
        return buffer[:]


def test_sqlite_shell_reads_a_live_mount(mount: Mount, disk: Path) -> None:
    mount.start()
    write(disk, os.urandom(BLOCK), 3 * BLOCK)
    write(disk, CONTENT[:BLOCK], 9 * BLOCK)
    shell("sync", disk)
    with SqliteShell(mount.database) as sqlite:
        assert any("disk" in line for line in sqlite.run("SELECT * FROM device_summary"))
        extents = sqlite.run("SELECT * FROM extent_list")
        assert len(extents) == 2
        assert all("disk" in line for line in extents)
        assert str(3 * BLOCK) in extents[0]
        assert sqlite.run("SELECT * FROM savings")
        assert sqlite.run("SELECT * FROM space_use")
        write(disk, os.urandom(BLOCK), 12 * BLOCK)
        shell("sync", disk)
        assert len(sqlite.run("SELECT * FROM extent_list")) == 3
