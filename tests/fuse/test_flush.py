"""Writing changes back upstream through /flush of a real mount."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.faulty_disk import faulty_disk
from tests.support.flushing import Way, command, flush, state, wait_for_batch, write
from tests.support.loop_devices import loop_device
from tests.support.mounting import Mount

BLOCK = 4096


def upstream(mount: Mount, name: str) -> bytes:
    return (mount.upstream / name).read_bytes()


@pytest.mark.parametrize("way", Way)
def test_one_new_block_is_written_back(mount: Mount, way: Way) -> None:
    mount.add("disk", os.urandom(16 * BLOCK))
    mount.start()
    assert state(mount) == "clean"
    write(mount, "disk", os.urandom(BLOCK), 5 * BLOCK)
    assert state(mount) == "ready"
    assert flush(mount, way) == ""
    assert state(mount) == "clean"
    shown = (mount.devs / "disk").read_bytes()
    assert upstream(mount, "disk") == shown
    assert mount.stats()["COW store references"] == "0"
    mount.umount()
    assert mount.cowdata.stat().st_size == 0
    mount.start()
    assert (mount.devs / "disk").read_bytes() == shown


@pytest.mark.parametrize("way", Way)
def test_sixteen_blocks_at_a_time_take_four_rounds(mount: Mount, way: Way) -> None:
    mount.add("disk", os.urandom(64 * BLOCK))
    mount.start()
    new = os.urandom(64 * BLOCK)
    write(mount, "disk", new)
    rounds = 0
    while state(mount) != "clean":
        assert flush(mount, way, blocks=16) == ""
        rounds += 1
        mount.restart()
    assert rounds == 4
    assert upstream(mount, "disk") == new


@pytest.mark.parametrize(
    "options", [(), ("--hash-table-size", "256")], ids=["plain", "overwhelmed"]
)
@pytest.mark.parametrize("way", Way)
def test_swapped_devices_are_swapped_upstream(
    mount: Mount, options: tuple[str, ...], way: Way
) -> None:
    contents = {name: os.urandom(16 * BLOCK) for name in "abcd"}
    contents["d"] = contents["c"][: 8 * BLOCK] * 2
    for name, content in contents.items():
        mount.add(name, content)
    mount.start(*options)
    for name in contents:
        (mount.devs / name).read_bytes()
    for name, other in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")):
        write(mount, name, contents[other])
    assert flush(mount, way, options=options) == ""
    for name, other in (("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")):
        assert upstream(mount, name) == contents[other]
        assert (mount.devs / name).read_bytes() == contents[other]
    assert state(mount) == "clean"


def test_max_leaves_cycles(mount: Mount) -> None:
    contents = {name: os.urandom(4 * BLOCK) for name in "ab"}
    for name, content in contents.items():
        mount.add(name, content)
    mount.start()
    for name in contents:
        (mount.devs / name).read_bytes()
    write(mount, "a", contents["b"])
    write(mount, "b", contents["a"])
    assert command(mount, "max\n") == 0
    assert state(mount) == "ready"
    assert upstream(mount, "a") == contents["a"]


def test_unknown_command_changes_nothing(mount: Mount) -> None:
    mount.add("disk", os.urandom(4 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    for text in ("all\n", "-1\n", "1.5\n", "\n", "x" * 100):
        assert command(mount, text) == errno.EINVAL
        assert state(mount) == "ready"


def test_command_without_a_newline_runs_at_close(mount: Mount) -> None:
    mount.add("disk", os.urandom(4 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    assert command(mount, "full") == 0
    assert state(mount) == "clean"


@pytest.mark.parametrize("options", [("-r",), ("-R",)], ids=["upstream", "all"])
def test_read_only_mount_does_not_flush(mount: Mount, options: tuple[str, ...]) -> None:
    mount.add("disk", os.urandom(4 * BLOCK))
    mount.start()
    mount.restart(*options)
    assert state(mount) == "disabled"
    try:
        failure = command(mount, "full\n")
    except OSError as error:  # a file system mounted read-only refuses to open it
        failure = error.errno or 0
    assert failure == errno.EROFS


def test_upstream_changed_since_the_mount_is_not_overwritten(mount: Mount) -> None:
    path = mount.add("disk", os.urandom(4 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    os.utime(path, (1, 1))
    before = path.read_bytes()
    assert command(mount, "full\n") == errno.EIO
    assert state(mount).startswith("error\n")
    assert "disk" in state(mount)
    assert path.read_bytes() == before
    mount.kill()
    os.utime(path, (1, 1))


def test_blocks_that_cannot_be_written_stay_mapped(mount: Mount, tmp_path: Path) -> None:
    backing = tmp_path / "backing"
    backing.mkdir()
    (tmp_path / "faulty").mkdir()
    old = os.urandom(64 * BLOCK)
    (backing / "disk").write_bytes(old)
    with faulty_disk(backing, tmp_path / "faulty", block_size=BLOCK) as disk:
        mount.upstream.mkdir(exist_ok=True)
        (mount.upstream / "disk").symlink_to(disk.path("disk"))
        mount.start()
        new = os.urandom(64 * BLOCK)
        write(mount, "disk", new)
        disk.fail("write")
        assert command(mount, "full\n") == errno.EIO
        assert state(mount).startswith("error\n")
        assert "byte 0" in state(mount)
        assert (mount.devs / "disk").read_bytes() == new
        disk.fail()
        assert command(mount, "full\n") == 0
        assert (backing / "disk").read_bytes() == new
        mount.umount()


def test_another_handle_watches_and_cancels(mount: Mount, tmp_path: Path) -> None:
    for name in ("backing", "faulty"):
        (tmp_path / name).mkdir()
    size = 70 << 20  # more than a batch
    new = os.urandom(size)
    with (tmp_path / "backing/disk").open("wb") as file:
        file.truncate(size)
    with faulty_disk(tmp_path / "backing", tmp_path / "faulty") as disk:
        mount.add("disk", b"").unlink()
        (mount.upstream / "disk").symlink_to(disk.path("disk"))
        mount.start()
        write(mount, "disk", new)
        disk.fail("hold")
        early = os.open(mount.point / "flush", os.O_WRONLY)
        with ThreadPoolExecutor(1) as pool:
            flush = pool.submit(command, mount, "full\n")
            wait_for_batch(mount)
            assert command(mount, "full\n") == errno.EBUSY
            assert os.write(early, b"cancel\n") == 7
            assert command(mount, "cancel\n") == 0
            assert state(mount).startswith("flushing")
            disk.fail()
            assert flush.result() == 0
        os.close(early)
        assert state(mount) == "ready"
        assert (mount.devs / "disk").read_bytes() == new
        mount.umount()


@pytest.mark.needs_root
def test_block_device_that_somebody_uses_is_not_written(mount: Mount, tmp_path: Path) -> None:
    old, new = os.urandom(4 * BLOCK), os.urandom(4 * BLOCK)
    (tmp_path / "image").write_bytes(old)
    with loop_device(tmp_path / "image") as loop:
        (mount.upstream / "disk").symlink_to(loop)
        mount.start()
        write(mount, "disk", new)
        user = os.open(loop, os.O_RDONLY | os.O_EXCL)  # as a mounted filesystem does
        try:
            assert command(mount, "full\n") == errno.EBUSY
            assert "in use" in state(mount)
            assert loop.read_bytes() == old
        finally:
            os.close(user)
        assert command(mount, "full\n") == 0
        assert loop.read_bytes() == new
        mount.umount()
