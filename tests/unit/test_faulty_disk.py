import errno
import os
from pathlib import Path

import pytest

from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.loop_devices import loop_device, read_only_what_is_asked

BLOCK = 4096
BLOCKS = 200
EVERY = 17
BAD = [block for block in range(BLOCKS) if block % EVERY == EVERY - 1]
CONTENT = b"".join(bytes([block]) * BLOCK for block in range(BLOCKS))


@pytest.fixture
def faulty(tmp_path: Path):
    backing, mountpoint = tmp_path / "backing", tmp_path / "mountpoint"
    backing.mkdir()
    mountpoint.mkdir()
    (backing / "disk").write_bytes(CONTENT)
    with faulty_disk(backing, mountpoint, EVERY) as disk:
        yield disk
    assert not os.path.ismount(mountpoint)


def raised(function, *arguments) -> int | None:
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return None


def bad_blocks(path: Path) -> list[int]:
    """Read all blocks, first many at once so that caches and read-ahead do their worst."""
    fd = os.open(path, os.O_RDONLY)
    for offset in range(0, BLOCKS * BLOCK, 16 * BLOCK):
        raised(os.pread, fd, 16 * BLOCK, offset)
    bad = []
    for block in range(BLOCKS):
        if raised(os.pread, fd, BLOCK, block * BLOCK) == errno.EIO:
            bad.append(block)
        else:
            assert os.pread(fd, BLOCK, block * BLOCK) == bytes([block]) * BLOCK
    os.close(fd)
    return bad


def test_faulty_disk_fails_single_blocks(faulty):
    assert bad_blocks(faulty.path("disk")) == BAD


@pytest.mark.needs_root
def test_faulty_disk_fails_single_blocks_below_a_loop_device(faulty):
    with loop_device(faulty.path("disk")) as loop:
        read_only_what_is_asked(loop)
        assert bad_blocks(loop) == BAD


def test_faulty_disk_is_switched_while_it_runs(faulty: FaultyDisk):
    fd = os.open(faulty.path("disk"), os.O_RDWR)
    steps = {
        "read": lambda: os.pread(fd, 10, 0),
        "write": lambda: os.pwrite(fd, b"x", 0),
        "fsync": lambda: os.fsync(fd),
    }
    for kinds in ((), ("read",), ("write",), ("fsync",), ("write", "fsync"), ()):
        faulty.fail(*kinds)
        for kind, step in steps.items():
            assert raised(step) == (errno.EIO if kind in kinds else None)
    os.close(fd)


def test_faulty_disk_writes_through(faulty, tmp_path):
    with faulty.path("disk").open("r+b") as file:
        file.write(b"written")
    assert (tmp_path / "backing" / "disk").read_bytes() == b"written" + CONTENT[7:]
