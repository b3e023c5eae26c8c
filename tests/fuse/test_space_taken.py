"""What is stored for what is written through a mount, measured on disk after unmounting."""

import itertools
import os
from pathlib import Path

import pytest

from tests.support.mounting import Mount, shell

BLOCK = 4096
BLOCKS = 32
CONTENTS = {name: os.urandom(BLOCKS * BLOCK) for name in ("a", "b")}


@pytest.fixture(autouse=True, params=[(), ("-o", "direct_io")], ids=["cached", "direct_io"])
def mounted(mount: Mount, request: pytest.FixtureRequest) -> Mount:
    """Two devices of random content, served."""
    for name, content in CONTENTS.items():
        mount.add(name, content)
    return mount.start(*request.param)


def unmount_and_measure(mount: Mount) -> int:
    """Return the blocks that `cowdata` takes on disk; what is a hole in it takes none."""
    mount.umount()
    for name, content in CONTENTS.items():
        assert (mount.upstream / name).read_bytes() == content
    taken = mount.cowdata.stat().st_blocks * 512
    assert taken == data_bytes(mount.cowdata)
    return taken // BLOCK


def data_bytes(path: Path) -> int:
    """Return how many bytes of a file are not in holes."""
    end = path.stat().st_size
    total = at = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while at < end:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            at = os.lseek(fd, begin, os.SEEK_HOLE)
            total += at - begin
    except OSError:
        pass  # only a hole is left
    os.close(fd)
    return total


def copy(source: Path, target: Path, *operands: str) -> None:
    shell("dd", f"if={source}", f"of={target}", f"bs={BLOCK}", "conv=notrunc", *operands)


def write(path: Path, data: bytes, offset: int = 0) -> None:
    fd = os.open(path, os.O_WRONLY)
    assert os.pwrite(fd, data, offset) == len(data)
    os.close(fd)


def read_all(mount: Mount) -> None:
    """Make all contents known."""
    for name, content in CONTENTS.items():
        assert (mount.devs / name).read_bytes() == content


def is_all_identity(mount: Mount) -> bool:
    return (mount.point / "flush").read_text() == "clean\n"


def test_same_data_takes_nothing(mount: Mount) -> None:
    for name in CONTENTS:
        copy(mount.devs / name, mount.devs / name)
    assert is_all_identity(mount)
    mount.restart()
    assert is_all_identity(mount)
    read_all(mount)
    assert unmount_and_measure(mount) == 0


def test_zeros_take_nothing(mount: Mount) -> None:
    copy(Path("/dev/zero"), mount.devs / "a", "count=16")
    assert (mount.devs / "a").read_bytes() == bytes(16 * BLOCK) + CONTENTS["a"][16 * BLOCK :]
    assert unmount_and_measure(mount) == 0


def test_repeated_output_takes_two_blocks_at_most(mount: Mount) -> None:
    command = f"yes | dd of={mount.devs}/a bs={BLOCK} count=16 iflag=fullblock conv=notrunc"
    shell("sh", "-c", command)
    assert (mount.devs / "a").read_bytes()[: 16 * BLOCK] == b"y\n" * (16 * BLOCK // 2)
    assert 1 <= unmount_and_measure(mount) <= 2


@pytest.mark.parametrize("piece", [BLOCK, 16 * BLOCK])
def test_half_copied_over_the_other_takes_nothing(mount: Mount, piece: int) -> None:
    disk = mount.devs / "a"
    half = BLOCKS * BLOCK // 2
    shell(
        "dd",
        *(f"if={disk}", f"of={disk}", f"bs={piece}"),
        *(f"count={half // piece}", f"seek={half // piece}", "conv=notrunc"),
    )
    mount.restart()
    assert disk.read_bytes() == CONTENTS["a"][:half] * 2
    assert unmount_and_measure(mount) == 0


def test_two_devices_swapped_take_nothing(mount: Mount) -> None:
    read_all(mount)
    copy(mount.upstream / "a", mount.devs / "b")
    copy(mount.upstream / "b", mount.devs / "a")
    mount.restart()
    assert (mount.devs / "a").read_bytes() == CONTENTS["b"]
    assert (mount.devs / "b").read_bytes() == CONTENTS["a"]
    assert unmount_and_measure(mount) == 0


@pytest.mark.parametrize("synced", [False, True])
def test_block_rewritten_with_the_same_takes_one_block(mount: Mount, synced: bool) -> None:
    new = os.urandom(BLOCK)
    for _ in range(100):
        write(mount.devs / "a", new)
        if synced:
            shell("sync", mount.devs / "a")
    assert unmount_and_measure(mount) == 1
    assert mount.cowdata.stat().st_size == BLOCK


@pytest.mark.parametrize("synced", [False, True])
def test_block_that_was_freed_is_used_again(mount: Mount, synced: bool) -> None:
    read_all(mount)
    steps = [(0, os.urandom(BLOCK)), (0, CONTENTS["b"][:BLOCK]), (5, os.urandom(BLOCK))]
    for block, data in steps:
        write(mount.devs / "a", data, block * BLOCK)
        if synced:
            shell("sync", mount.devs / "a")
    assert unmount_and_measure(mount) == 1
    assert mount.cowdata.stat().st_size == BLOCK


def test_content_that_comes_back_takes_no_more_than_the_live_blocks(mount: Mount) -> None:
    one, other = os.urandom(8 * BLOCK), os.urandom(8 * BLOCK)
    for data in (one, other, one, bytes(8 * BLOCK), one, other):
        write(mount.devs / "a", data)
        shell("sync", mount.devs / "a")
    assert (mount.devs / "a").read_bytes()[: 8 * BLOCK] == other
    assert unmount_and_measure(mount) == 8


def test_freed_space_inside_and_at_the_end_is_given_back(mount: Mount) -> None:
    write(mount.devs / "a", os.urandom(16 * BLOCK))
    mount.restart()
    write(mount.devs / "a", bytes(4 * BLOCK), 2 * BLOCK)
    write(mount.devs / "a", bytes(6 * BLOCK), 10 * BLOCK)
    assert unmount_and_measure(mount) == 6
    assert mount.cowdata.stat().st_size == 10 * BLOCK


def test_blocks_written_and_restored_backwards_are_identity(mount: Mount) -> None:
    disk = mount.devs / "a"
    read_all(mount)
    new = os.urandom(BLOCKS * BLOCK)
    for content in (new, CONTENTS["a"]):
        for block in reversed(range(BLOCKS)):
            at = block * BLOCK
            write(disk, content[at : at + BLOCK], at)
        assert is_all_identity(mount) == (content is not new)
        mount.restart()
        assert disk.read_bytes() == content
    assert is_all_identity(mount)
    assert unmount_and_measure(mount) == 0


def test_contents_are_right_with_a_hash_table_that_is_too_small(mount: Mount) -> None:
    """It holds 16 entries; 24 blocks each have their own content, all over two devices."""
    tiny = ("--hash-table-size", "256")
    mount.restart(*tiny)
    expected = {name: bytearray(content) for name, content in CONTENTS.items()}
    pieces = itertools.cycle([os.urandom(24 * BLOCK), CONTENTS["b"][: 24 * BLOCK], bytes(BLOCK)])
    for step in range(12):
        name, data = ("a", "b")[step % 2], next(pieces)
        offset = step * 1000 % (BLOCKS * BLOCK - len(data))
        write(mount.devs / name, data, offset)
        expected[name][offset : offset + len(data)] = data
        for shown, content in expected.items():
            assert (mount.devs / shown).read_bytes() == content
    mount.restart(*tiny)
    for shown, content in expected.items():
        assert (mount.devs / shown).read_bytes() == content
    entries = int(mount.stats()["Hash table entries"])
    assert entries <= 16


def test_wiped_blocks_restored_retroactively_leave_no_references(mount: Mount) -> None:
    """The table holds 16 entries, the device twice as many blocks."""
    options = ("--hash-table-size", "256", "--retroactive")
    mount.restart(*options)
    disk = mount.devs / "a"
    copy(disk, Path("/dev/null"))
    copy(Path("/dev/zero"), disk, f"count={BLOCKS}")
    mount.restart(*options)
    copy(mount.upstream / "a", disk)
    assert disk.read_bytes() == CONTENTS["a"]
    assert mount.stats()["COW store references"] == "0"
    assert unmount_and_measure(mount) == 0
