"""Upstream blocks that cannot be read: EIO for them alone, whichever way they are asked for."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faulty_disk import faulty_disk
from tests.support.loop_devices import loop_device, read_only_what_is_asked
from tests.support.mounting import Mount, shell

BLOCK = 4096
BLOCKS = 100
BAD = [16, 33, 50, 67, 84]
CONTENT = os.urandom(BLOCKS * BLOCK)

each_cache_mode = pytest.mark.parametrize(
    "options", [(), ("-o", "direct_io")], ids=["cached", "direct_io"]
)


@pytest.fixture
def disk(mount: Mount, tmp_path: Path) -> Iterator[Path]:
    """A served device; every 17th block of its upstream cannot be read."""
    backing, point = tmp_path / "backing", tmp_path / "faulty"
    backing.mkdir()
    point.mkdir()
    (backing / "disk").write_bytes(CONTENT)
    with faulty_disk(backing, point, 17) as faulty:
        (mount.upstream / "disk").symlink_to(faulty.path("disk"))
        yield mount.devs / "disk"
        mount.close()  # before its upstream goes
    assert (backing / "disk").read_bytes() == CONTENT


def read_to_error(path: Path, piece: int) -> tuple[bytes, int]:
    """Read until the end or an error; return what was read, and the errno."""
    fd = os.open(path, os.O_RDONLY)
    content = b""
    try:
        while part := os.read(fd, piece):
            content += part
    except OSError as error:
        return content, error.errno or 0
    finally:
        os.close(fd)
    return content, 0


def read_blocks(path: Path, content: bytes) -> list[int]:
    """Read each block; return those that answer EIO, all others must be right."""
    bad = []
    fd = os.open(path, os.O_RDONLY)
    for block in range(BLOCKS):
        try:
            found = os.pread(fd, BLOCK, block * BLOCK)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            bad.append(block)
        else:
            assert found == content[block * BLOCK :][:BLOCK], block
    os.close(fd)
    return bad


@each_cache_mode
@pytest.mark.parametrize("piece", [BLOCK, 10 * BLOCK, BLOCKS * BLOCK])
def test_reading_gives_what_comes_before_the_bad_block(
    mount: Mount, disk: Path, options: tuple[str, ...], piece: int
) -> None:
    mount.start(*options)
    assert read_to_error(disk, piece) == (CONTENT[: BAD[0] * BLOCK], errno.EIO)
    assert disk.stat().st_size == len(CONTENT)
    assert read_blocks(disk, CONTENT) == BAD


@each_cache_mode
def test_bad_blocks_are_counted_and_logged(
    mount: Mount, disk: Path, options: tuple[str, ...]
) -> None:
    mount.add("other", CONTENT)
    mount.start(*options)
    assert (mount.devs / "other").read_bytes() == CONTENT
    before = int(mount.stats()["Device disk upstream read errors"])
    assert read_blocks(disk, CONTENT) == BAD
    stats = mount.stats()
    assert int(stats["Device disk upstream read errors"]) >= before + len(BAD)
    assert stats["Device other upstream read errors"] == "0"
    for block in BAD:
        assert f"disk: cannot read byte {block * BLOCK}" in mount.read_log()


@each_cache_mode
def test_bad_block_is_good_once_it_is_written(
    mount: Mount, disk: Path, options: tuple[str, ...]
) -> None:
    mount.start(*options)
    expected = bytearray(CONTENT)
    fd = os.open(disk, os.O_RDWR)
    for offset, length in ((BAD[0] * BLOCK, BLOCK), ((BAD[1] - 2) * BLOCK, 5 * BLOCK)):
        data = os.urandom(length)
        expected[offset : offset + length] = data
        assert os.pwrite(fd, data, offset) == length
    with pytest.raises(OSError, match="Input/output error"):
        os.pwrite(fd, b"part", BAD[2] * BLOCK + 100)
    assert os.pwrite(fd, b"part", BAD[2] * BLOCK - 4) == 4
    expected[BAD[2] * BLOCK - 4 : BAD[2] * BLOCK] = b"part"
    os.fsync(fd)
    os.close(fd)
    assert read_blocks(disk, expected) == BAD[2:]
    mount.restart(*options)
    assert read_blocks(disk, expected) == BAD[2:]


@each_cache_mode
def test_content_is_never_compared_with_a_bad_block(
    mount: Mount, disk: Path, options: tuple[str, ...]
) -> None:
    mount.add("spare", bytes(len(CONTENT)))
    mount.start(*options)
    read_blocks(disk, CONTENT)
    (mount.devs / "spare").write_bytes(CONTENT)
    assert (mount.devs / "spare").read_bytes() == CONTENT
    mount.restart(*options)
    assert (mount.devs / "spare").read_bytes() == CONTENT
    mount.umount()
    assert mount.cowdata.stat().st_blocks * 512 == len(BAD) * BLOCK


def test_copying_fails_where_content_is_missing(mount: Mount, disk: Path, tmp_path: Path) -> None:
    """The page cache could take a short answer for the end, and a copy would look complete."""
    mount.start()
    with pytest.raises(AssertionError, match="Input/output error"):
        shell("cp", disk, tmp_path / "copy")
    shell(
        "dd",
        f"if={disk}",
        f"of={tmp_path}/copy",
        "bs=4k",
        "conv=noerror,sync",
        "status=none",
        check=False,
    )
    rescued = (tmp_path / "copy").read_bytes()
    for block in range(BLOCKS):
        expected = bytes(BLOCK) if block in BAD else CONTENT[block * BLOCK :][:BLOCK]
        assert rescued[block * BLOCK :][:BLOCK] == expected, block


@pytest.mark.needs_root
@each_cache_mode
def test_loop_device_over_a_device_file_fails_in_the_same_blocks(
    mount: Mount, disk: Path, options: tuple[str, ...]
) -> None:
    mount.start(*options)
    with loop_device(disk) as loop:
        read_only_what_is_asked(loop)
        assert read_blocks(loop, CONTENT) == BAD


@each_cache_mode
def test_checksum_error_is_not_taken_for_the_end(mount: Mount, options: tuple[str, ...]) -> None:
    mount.add("disk", CONTENT)
    mount.start("--checksum-bits", "32", *options)
    disk = mount.devs / "disk"
    new = os.urandom(20 * BLOCK)
    fd = os.open(disk, os.O_WRONLY)
    assert os.pwrite(fd, new, 0) == len(new)
    os.close(fd)
    mount.umount()
    with mount.cowdata.open("r+b") as file:
        file.seek(5 * BLOCK)
        file.write(bytes(BLOCK))
    mount.start(*options)
    assert read_to_error(disk, BLOCKS * BLOCK) == (new[: 5 * BLOCK], errno.EIO)
    assert disk.stat().st_size == len(CONTENT)
    with disk.open("rb") as file:
        file.seek(6 * BLOCK)
        assert file.read() == new[6 * BLOCK :] + CONTENT[20 * BLOCK :]
