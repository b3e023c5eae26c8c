"""Devices that change their size, devices that cannot, and devices without upstream."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.test_device_files import each_cache_mode, errno_of
from tests.support.loop_devices import loop_device
from tests.support.mounting import Mount, run_thincow

BLOCK = 4096
SIZE = 5 * BLOCK + 1000
CONTENT = os.urandom(SIZE)
MIB = 1 << 20


@pytest.fixture
def disk(mount: Mount) -> Path:
    mount.add("disk", CONTENT)
    return mount.devs / "disk"


@each_cache_mode
def test_file_grows_by_writing_behind_its_end(
    mount: Mount, disk: Path, options: tuple[str]
) -> None:
    mount.start(*options)
    assert disk.read_bytes() == CONTENT
    expected = bytearray(CONTENT)
    with disk.open("r+b", buffering=0) as file, disk.open("ab", buffering=0) as appending:
        for offset, length in [(SIZE - 5, 10), (9 * BLOCK + 3, 5000), (30 * BLOCK, BLOCK)]:
            data = os.urandom(length)
            expected.extend(bytes(max(0, offset - len(expected))))
            expected[offset : offset + length] = data
            assert os.pwrite(file.fileno(), data, offset) == length
            assert os.fstat(file.fileno()).st_size == len(expected)
            assert os.pread(file.fileno(), 2 * len(expected), 0) == expected
        appending.write(b"appended")
        assert os.pread(file.fileno(), 100, len(expected)) == b"appended"
    expected += b"appended"
    assert disk.read_bytes() == expected
    mount.restart(*options)
    assert disk.stat().st_size == len(expected)
    assert disk.read_bytes() == expected
    assert (mount.upstream / "disk").read_bytes() == CONTENT


@each_cache_mode
def test_file_is_cut_and_grown_by_truncation(mount: Mount, disk: Path, options: tuple[str]) -> None:
    mount.start(*options)
    assert disk.read_bytes() == CONTENT
    before = disk.stat().st_mtime_ns
    os.truncate(disk, BLOCK + 5)
    assert disk.read_bytes() == CONTENT[: BLOCK + 5]
    assert disk.stat().st_mtime_ns > before
    with disk.open("r+b", buffering=0) as file:
        file.truncate(3 * BLOCK)
        expected = CONTENT[: BLOCK + 5].ljust(3 * BLOCK, b"\0")
        assert file.read() == expected
        os.pwrite(file.fileno(), b"x", 5 * BLOCK)
        expected = expected.ljust(5 * BLOCK, b"\0") + b"x"
        file.seek(0)
        assert file.read() == expected
    mount.restart(*options)
    assert disk.read_bytes() == expected
    mount.kill()
    mount.start(*options)
    assert disk.read_bytes() == expected


def test_large_file_is_cut_in_pieces(mount: Mount) -> None:
    with mount.add("disk", b"").open("r+b") as file:
        file.truncate(64 * MIB)
    mount.start("--block-size", "512")
    disk = mount.devs / "disk"
    with disk.open("r+b") as file:
        for offset in range(0, 64 * MIB, 64 << 10):
            os.pwrite(file.fileno(), b"%d" % offset, offset)
        size = 64 * MIB
        for size in (48 * MIB + 7, 100, 0):
            file.truncate(size)
            assert os.fstat(file.fileno()).st_size == size
    assert mount.stats()["COW store references"] == "0"


def test_too_large_a_size_is_refused(mount: Mount, disk: Path) -> None:
    mount.start("--block-size", "512")
    assert errno_of(os.truncate, disk, (512 << 40) + 1) == errno.EFBIG
    os.truncate(disk, 512 << 40)
    with disk.open("r+b", buffering=0) as file:
        assert errno_of(os.pwrite, file.fileno(), b"x", 512 << 40) == errno.EFBIG
    assert disk.stat().st_size == 512 << 40


def test_read_only_file_keeps_its_size(mount: Mount, disk: Path) -> None:
    mount.start("--no-mount")
    mount.start("-R")
    assert errno_of(os.truncate, disk, 0) == errno.EROFS


@pytest.fixture
def block_disk(mount: Mount, tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    backing.write_bytes(CONTENT[: 4 * BLOCK])
    with loop_device(backing) as loop:
        (mount.upstream / "disk").symlink_to(loop)
        yield mount.devs / "disk"
        mount.close()


@pytest.mark.needs_root
@each_cache_mode
def test_block_device_has_a_fixed_size(mount: Mount, block_disk: Path, options: tuple[str]) -> None:
    mount.start(*options)
    size = 4 * BLOCK
    os.truncate(block_disk, size)
    for wanted in (0, size - 1, size + 1):
        assert errno_of(os.truncate, block_disk, wanted) == errno.EPERM
    with block_disk.open("r+b", buffering=0) as file:
        fd = file.fileno()
        assert errno_of(os.pwrite, fd, b"x", size) == errno.ENOSPC
        assert errno_of(os.pwrite, fd, b"x", size + 10 * BLOCK) == errno.ENOSPC
        assert os.pwrite(fd, b"abc", size - 2) == 2
        assert os.pread(fd, 10, size - 3) == CONTENT[size - 3 : size - 2] + b"ab"
        assert os.pread(fd, 10, size) == b""
    with block_disk.open("ab", buffering=0) as file:
        assert errno_of(file.write, b"x") == errno.ENOSPC
    assert block_disk.stat().st_size == size


def test_flush_gives_upstream_the_new_size(mount: Mount, disk: Path) -> None:
    mount.add("other", CONTENT)
    mount.start()
    os.truncate(disk, BLOCK)
    other = mount.devs / "other"
    with other.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"end", MIB)
    plan = run_thincow("flush", "--dry-run", mount.point).stdout
    assert f"\ndisk is cut from {SIZE} to {BLOCK} bytes\n" in plan
    assert f"\nother grows from {SIZE} to {MIB + 3} bytes\n" in plan
    (mount.point / "flush").write_text("full\n")
    assert (mount.point / "flush").read_text() == "clean\n"
    assert (mount.upstream / "disk").read_bytes() == CONTENT[:BLOCK]
    assert (mount.upstream / "other").read_bytes() == CONTENT.ljust(MIB, b"\0") + b"end"
    mount.restart()
    assert (mount.point / "flush").read_text() == "clean\n"
    assert disk.read_bytes() == CONTENT[:BLOCK]


def test_extra_device_is_empty_and_takes_what_is_moved_to_it(mount: Mount, disk: Path) -> None:
    mount.start("--size", "target=1T", "--size", "small=10")
    target = mount.devs / "target"
    assert target.stat().st_size == 1 << 40
    assert (mount.devs / "small").read_bytes() == bytes(10)
    with disk.open("rb") as source, target.open("r+b") as file:
        os.pwrite(file.fileno(), source.read(), 512 << 30)
    assert int(mount.stats()["COW store blocks"]) <= 1
    mount.restart()
    with target.open("rb") as file:
        assert os.pread(file.fileno(), SIZE, 512 << 30) == CONTENT
    os.truncate(target, 0)
    assert mount.stats()["COW store blocks"] == "0"


def test_deduplicating_store_without_upstream(mount: Mount) -> None:
    options = ("--data-dir", mount.data, "--log-file", mount.log, mount.point)
    done = run_thincow("mount", "--size", "pool=1G", *options)
    assert done.returncode == 0, done.stderr
    content = os.urandom(MIB)
    with (mount.devs / "pool").open("r+b") as file:
        for copy in range(3):
            os.pwrite(file.fileno(), content, copy * 100 * MIB)
    assert mount.stats()["COW store bytes"] == str(MIB)
    mount.umount()
    done = run_thincow("mount", *options)
    assert done.returncode == 0, done.stderr
    with (mount.devs / "pool").open("rb") as file:
        assert os.pread(file.fileno(), MIB, 200 * MIB) == content
    assert (mount.point / "flush").read_text() == "clean\n"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("disk=5", "disk is an upstream device"),
        ("disk", "NAME=BYTES"),
        ("x=much", "is not a size"),
        ("a/b=5", "a/b"),
        ("=5", "NAME=BYTES"),
        ("..=5", "'..'"),
        ("x=99999999T", "x"),
    ],
)
def test_bad_size_option_is_refused(mount: Mount, disk: Path, option: str, words: str) -> None:
    done = mount.try_start("--size", option)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert not mount.data.exists()
