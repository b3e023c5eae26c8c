"""Files under /devs behave as tools expect of a block device, as far as a file can."""

import ctypes
import errno
import mmap
import os
import stat
import time
from pathlib import Path

import pytest

from tests.support.mounting import Mount, shell

BLOCK = 4096
SIZE = 5 * BLOCK + 1000
CONTENT = os.urandom(SIZE)

each_cache_mode = pytest.mark.parametrize(
    "options", [(), ("-o", "direct_io")], ids=["cached", "direct_io"]
)


@pytest.fixture
def disk(mount: Mount) -> Path:
    mount.add("disk", CONTENT)
    return mount.devs / "disk"


def errno_of(function, *arguments) -> int:
    try:
        function(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


def close_dead(fd: int) -> None:
    """Close a file whose mount has died: the descriptor is gone although an error comes."""
    assert errno_of(os.close, fd) == errno.ENOTCONN


@each_cache_mode
def test_write_and_read_at_any_offset(mount: Mount, disk: Path, options: tuple[str]) -> None:
    mount.start(*options)
    expected = bytearray(CONTENT)
    places = [(0, SIZE), (0, 1), (1, 2), (4095, 2), (4000, 9000), (BLOCK, BLOCK), (5 * BLOCK, 1000)]
    with disk.open("r+b", buffering=0) as file:
        for offset, length in places:
            data = os.urandom(length)
            expected[offset : offset + length] = data
            assert os.pwrite(file.fileno(), data, offset) == length
            assert os.pread(file.fileno(), SIZE, 0) == expected
    mount.restart(*options)
    assert disk.read_bytes() == expected


@each_cache_mode
def test_opening_with_truncation_keeps_the_content(
    mount: Mount, disk: Path, options: tuple[str]
) -> None:
    mount.start(*options)
    assert disk.read_bytes() == CONTENT
    with disk.open("wb", buffering=0) as file:
        assert os.fstat(file.fileno()).st_size == SIZE
        file.write(b"new")
        assert disk.read_bytes() == b"new" + CONTENT[3:]
    assert disk.stat().st_size == SIZE
    assert disk.read_bytes() == b"new" + CONTENT[3:]


@each_cache_mode
@pytest.mark.parametrize(
    "command",
    [
        "cat {new} > {disk}",
        "dd if={new} of={disk} bs=4k status=none",
        "dd if={new} of={disk} bs=4k conv=notrunc,fsync status=none",
        "cp {new} {disk}",
        "tee < {new} {disk} > /dev/null",
        "cp --preserve=mode,timestamps {new} {disk}",
    ],
)
def test_tools_write_to_the_beginning(
    mount: Mount, disk: Path, options: tuple[str], command: str
) -> None:
    mount.start(*options)
    new = mount.directory / "new"
    new.write_bytes(os.urandom(2 * BLOCK + 5))
    shell("sh", "-c", command.format(new=new, disk=disk))
    assert disk.read_bytes() == new.read_bytes() + CONTENT[2 * BLOCK + 5 :]


@each_cache_mode
def test_tools_write_into_the_middle(mount: Mount, disk: Path, options: tuple[str]) -> None:
    mount.start(*options)
    shell("dd", "if=/dev/zero", f"of={disk}", "bs=4k", "seek=2", "count=1", "conv=notrunc")
    assert disk.read_bytes() == CONTENT[: 2 * BLOCK] + bytes(BLOCK) + CONTENT[3 * BLOCK :]


def test_mapped_writes_are_stored(mount: Mount, disk: Path) -> None:
    mount.start()
    with disk.open("r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[BLOCK : BLOCK + 5] = b"01234"
        mapped.flush()
    mount.restart()
    assert disk.read_bytes() == CONTENT[:BLOCK] + b"01234" + CONTENT[BLOCK + 5 :]


@pytest.mark.parametrize("flags", [os.O_DIRECT, os.O_DIRECT | os.O_DSYNC])
def test_direct_handles_see_what_cached_ones_write(mount: Mount, disk: Path, flags: int) -> None:
    mount.start()
    fd = os.open(disk, os.O_RDWR | flags)
    buffer = mmap.mmap(-1, BLOCK)  # page-aligned
    buffer[:] = bytes([7]) * BLOCK
    assert os.pwrite(fd, buffer, BLOCK) == BLOCK
    assert disk.read_bytes()[BLOCK : 2 * BLOCK] == buffer[:]
    with disk.open("r+b") as file:
        file.write(bytes([8]) * BLOCK)
    os.preadv(fd, [buffer], 0)
    assert buffer[:] == bytes([8]) * BLOCK
    os.close(fd)


@each_cache_mode
@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes_survive_a_kill(
    mount: Mount, disk: Path, options: tuple[str], flag: int
) -> None:
    mount.start(*options)
    fd = os.open(disk, os.O_WRONLY | flag)
    os.pwrite(fd, b"synced", 0)
    mount.kill()
    close_dead(fd)
    mount.start(*options)
    assert disk.read_bytes() == b"synced" + CONTENT[6:]


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync])
def test_synced_writes_survive_a_kill(mount: Mount, disk: Path, sync) -> None:
    mount.start()
    fd = os.open(disk, os.O_WRONLY)
    os.pwrite(fd, b"synced", 0)
    sync(fd)
    mount.kill()
    close_dead(fd)
    mount.start()
    assert disk.read_bytes() == b"synced" + CONTENT[6:]


def test_sync_of_a_directory_covers_all_devices(mount: Mount, disk: Path) -> None:
    mount.start()
    with disk.open("r+b") as file:
        file.write(b"synced")
    shell("sync", mount.devs)
    mount.kill()
    mount.start()
    assert disk.read_bytes() == b"synced" + CONTENT[6:]


def test_modification_time_is_upstreams_until_something_was_written(
    mount: Mount, disk: Path
) -> None:
    os.utime(mount.upstream / "disk", ns=(10**18, 10**18 + 1))
    mount.start()
    assert disk.stat().st_mtime_ns == 10**18 + 1
    before = time.time_ns()
    with disk.open("r+b") as file:
        file.write(b"x")
    time.sleep(1.1)  # the kernel may keep attributes for a second
    assert disk.stat().st_mtime_ns >= before


def test_attributes_can_be_changed_and_are_kept(mount: Mount, disk: Path) -> None:
    mount.start()
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    disk.chmod(0o640)
    os.utime(disk, (5, 6))
    status = disk.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 6)
    with disk.open("r+b", buffering=0) as file:
        file.write(b"x")
        os.utime(disk, (7, 8))
    mount.restart()
    status = disk.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 8)
    assert (mount.upstream / "disk").stat().st_mtime > 8


def test_names_can_neither_be_made_nor_removed(mount: Mount, disk: Path) -> None:
    mount.start()
    new = mount.devs / "new"
    assert errno_of(new.touch) == errno.EPERM
    assert errno_of(new.mkdir) == errno.EPERM
    assert errno_of(new.symlink_to, "x") == errno.EPERM
    assert errno_of(disk.unlink) == errno.EPERM
    assert errno_of(disk.rename, new) == errno.EPERM
    assert errno_of(new.hardlink_to, disk) == errno.EPERM
    assert errno_of(mount.devs.rmdir) == errno.EPERM
    assert errno_of(os.mkfifo, new) == errno.EPERM
    assert errno_of(new.stat) == errno.ENOENT


def test_unsupported_requests_answer_what_tools_expect(mount: Mount, disk: Path) -> None:
    mount.start()
    assert errno_of(os.setxattr, disk, "user.x", b"1") == errno.EOPNOTSUPP
    assert errno_of(os.getxattr, disk, "user.x") == errno.EOPNOTSUPP
    libc = ctypes.CDLL(None, use_errno=True)
    with disk.open("r+b") as file:
        offset, length = ctypes.c_int64(0), ctypes.c_int64(BLOCK)
        assert libc.fallocate(file.fileno(), 3, offset, length) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == SIZE


def test_file_system_shows_the_size_of_the_devices(mount: Mount, disk: Path) -> None:
    mount.start()
    status = os.statvfs(mount.point)
    assert status.f_blocks * status.f_frsize == SIZE // BLOCK * BLOCK
    assert status.f_bavail == 0


def test_kernel_drops_cached_pages_of_a_failed_write(mount: Mount, disk: Path) -> None:
    mount.start("--max-cow-blocks", "0")
    with disk.open("r+b", buffering=0) as file:
        file.read()
        assert errno_of(file.write, os.urandom(BLOCK)) == errno.ENOSPC
    assert disk.read_bytes() == CONTENT
    with disk.open("r+b") as file, mmap.mmap(file.fileno(), BLOCK) as mapped:
        mapped[:4] = b"lost"
        assert errno_of(mapped.flush) == errno.ENOSPC
    deadline = time.monotonic() + 10
    while disk.read_bytes() != CONTENT:
        assert time.monotonic() < deadline
        time.sleep(0.01)
