"""Bad input gets one line and exit status 1, and nothing is created or changed."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.faulty_disk import faulty_disk
from tests.support.loop_devices import loop_device, mounted
from tests.support.mounting import CHECKOUT, Mount, is_mounted, run_thincow, shell
from thincow import __version__


@pytest.fixture(autouse=True)
def disk(mount: Mount) -> Path:
    return mount.add("disk", os.urandom(16384))


def files(directory: Path) -> dict[str, bytes | None]:
    """Return everything below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if not path.name.startswith("log")
    }


def assert_refused(mount: Mount, *options: str | Path, because: str) -> None:
    before = files(mount.directory)
    done = mount.try_start(*options)
    assert done.returncode == 1, done.stderr
    assert because in done.stderr
    assert done.stderr.startswith("thincow: ")
    assert done.stderr.count("\n") == 1
    assert files(mount.directory) == before


def test_upstream_missing(mount: Mount) -> None:
    mount.upstream = mount.directory / "missing"
    assert_refused(mount, because=str(mount.upstream))


def test_upstream_empty(mount: Mount, disk: Path) -> None:
    disk.unlink()
    assert_refused(mount, because=str(mount.upstream))


def test_upstream_is_a_file(mount: Mount, disk: Path) -> None:
    mount.upstream = disk
    assert_refused(mount, because=str(disk))


@pytest.mark.parametrize("kind", ["directory", "pipe", "dangling"])
def test_upstream_holds_something_else(mount: Mount, kind: str) -> None:
    other = mount.upstream / "other"
    if kind == "directory":
        other.mkdir()
    elif kind == "pipe":
        os.mkfifo(other)
    else:
        other.symlink_to("nowhere")
    before = sorted(path.name for path in mount.directory.iterdir() if path.name != "log")
    done = mount.try_start()
    assert done.returncode == 1
    assert "other" in done.stderr
    assert done.stderr.count("\n") == 1
    after = sorted(path.name for path in mount.directory.iterdir() if path.name != "log")
    assert after == before


def test_mount_point_missing(mount: Mount) -> None:
    mount.point.rmdir()
    assert_refused(mount, because=f"mount point {mount.point} does not exist")


def test_mount_point_is_a_file(mount: Mount) -> None:
    mount.point.rmdir()
    mount.point.touch()
    assert_refused(mount, because=f"mount point {mount.point} is not a directory")


def test_mount_point_in_use(mount: Mount, new_mount: NewMount) -> None:
    mount.start()
    other = new_mount("other")
    other.add("disk", bytes(4096))
    other.point.rmdir()
    other.point.symlink_to(mount.point)
    done = run_thincow(*other.arguments())
    assert done.returncode == 1
    assert done.stderr == (
        f"thincow: mount point {other.point} is in use: a thincow is mounted on it\n"
    )
    assert not other.data.exists()


@pytest.mark.needs_root
def test_mount_point_holds_another_filesystem(mount: Mount) -> None:
    shell("mount", "-t", "tmpfs", "tmpfs", mount.point)
    try:
        assert_refused(mount, because="is in use: a filesystem (tmpfs) is mounted on it")
    finally:
        shell("umount", mount.point)


@pytest.mark.parametrize("outer", ["data", "upstream", "metadata"])
def test_mount_point_inside_a_directory_in_use(mount: Mount, outer: str) -> None:
    mount.metadata = mount.directory / "metadata"
    directory = mount.directory / outer
    directory.mkdir(exist_ok=True)
    mount.point = directory / "mnt"
    mount.point.mkdir()
    assert_refused(mount, because=f"lies in the {outer} directory")


@pytest.mark.parametrize("inner", ["data", "upstream", "metadata"])
def test_directory_in_use_inside_the_mount_point(mount: Mount, inner: str) -> None:
    mount.metadata = mount.directory / "metadata"
    place = mount.point / inner
    setattr(mount, inner, place)
    shutil.copytree(mount.directory / "upstream", place)
    assert_refused(mount, because=f"the {inner} directory {place} lies in the mount point")


def test_data_directory_is_a_file(mount: Mount) -> None:
    mount.data.touch()
    assert_refused(mount, because=str(mount.data))


def test_data_directory_without_a_parent(mount: Mount) -> None:
    mount.data = mount.directory / "missing" / "data"
    assert_refused(mount, because=str(mount.data.parent))


@pytest.mark.needs_root
def test_data_directory_on_a_read_only_filesystem(mount: Mount) -> None:
    image = mount.directory / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    shell("mkfs.ext4", "-q", image)
    with (
        loop_device(image) as loop,
        mounted(loop, mount.directory / "ro", "-o", "ro") as directory,
    ):
        mount.data = directory / "data"
        done = mount.try_start()
    mount.check_at_end = False
    assert done.returncode == 1
    assert str(directory) in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.needs_root
def test_data_directory_on_a_served_device(mount: Mount, disk: Path) -> None:
    image = mount.directory / "image"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    shell("mkfs.ext4", "-q", image)
    with loop_device(image) as loop, mounted(loop, mount.directory / "fs") as directory:
        disk.unlink()
        disk.symlink_to(loop)
        mount.data = directory
        done = mount.try_start()
        assert sorted(path.name for path in directory.iterdir()) == ["lost+found"]
    mount.check_at_end = False
    assert done.returncode == 1
    assert str(mount.data) in done.stderr
    assert done.stderr.count("\n") == 1


def test_store_of_another_block_size(mount: Mount) -> None:
    mount.start("--block-size", "512")
    mount.umount()
    assert_refused(mount, "--block-size", "4K", because="512")
    mount.start()
    assert mount.stats("stats.txt")["Block size"] == "512"


def test_store_of_other_upstreams(mount: Mount, disk: Path) -> None:
    mount.start()
    with (mount.devs / "disk").open("r+b") as file:
        file.write(os.urandom(4096))
    mount.umount()
    disk.rename(disk.with_name("renamed"))
    assert_refused(mount, because="disk")
    disk.with_name("renamed").rename(disk)


def test_store_in_use(mount: Mount, new_mount: NewMount) -> None:
    mount.start()
    pid = mount.pid
    other = new_mount("other", mount.upstream)
    other.data = mount.data
    other.check_at_end = False
    done = other.try_start()
    assert done.returncode == 1
    assert str(pid) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not is_mounted(other.point)


@pytest.mark.parametrize("option", ["bogus", "bogus=1", "subtype=x", "allow_other=1", "nonempty"])
def test_unknown_fuse_option(mount: Mount, option: str) -> None:
    assert_refused(mount, "-o", option, because=f"-o {option}: no such mount option")


def test_log_file_that_cannot_be_written(mount: Mount) -> None:
    mount.log = mount.directory / "missing" / "log"
    assert_refused(mount, because=f"log file {mount.log}: No such file or directory")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--block-size", "4000"),
        ("--block-size", "256"),
        ("--block-size", "2M"),
        ("--hash-table-size", "1X"),
        ("--hash-table-size", "8"),
        ("--checksum-bits", "12"),
        ("--max-cow-blocks", "-1"),
        ("--max-cow-blocks", "many"),
        ("--unknown",),
    ],
)
def test_usage_error_exits_with_2(mount: Mount, arguments: tuple[str, ...]) -> None:
    done = mount.try_start(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr
    assert not mount.data.exists()


def test_usage_error_for_missing_arguments() -> None:
    for arguments in (("mount",), ("mount", "--data-dir", "x", "y"), ("umount",), ("nothing",)):
        assert run_thincow(*arguments).returncode == 2


def test_version_and_help_work(tmp_path: Path) -> None:
    assert run_thincow("--version").stdout == f"thincow {__version__}\n"
    for command in ((), ("mount",), ("umount",), ("fsck",)):
        done = run_thincow(*command, "--help", cwd=tmp_path)
        assert done.returncode == 0
        assert "Example" in done.stdout


@pytest.fixture
def faulty(mount: Mount, tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    backing.mkdir()
    (backing / "disk").write_bytes((mount.upstream / "disk").read_bytes())
    point = tmp_path / "faulty"
    point.mkdir()
    with faulty_disk(backing, point, 3) as disk:
        yield disk.path("disk")


def test_upstream_read_error_spoils_only_its_block(mount: Mount, disk: Path, faulty: Path) -> None:
    good = disk.read_bytes()
    disk.unlink()
    disk.symlink_to(faulty)
    mount.start("-o", "direct_io")
    fd = os.open(mount.devs / "disk", os.O_RDONLY)
    for block in (0, 1, 3):
        assert os.pread(fd, 4096, block * 4096) == good[block * 4096 :][:4096]
    with pytest.raises(OSError, match="Input/output error"):
        os.pread(fd, 4096, 2 * 4096)
    assert os.pread(fd, 16384, 0) == good[: 2 * 4096]
    os.close(fd)
    assert "disk" in mount.read_log()


def test_modules_start_quickly_enough() -> None:
    """The light commands must not import the engine, FUSE or numerics."""
    code = (
        "import sys, thincow.cli.main, thincow.cli.umount, thincow.cli.mount, thincow.mount.stop,"
        " thincow.mount.start; print({'numpy', 'trio', 'pyfuse3', 'apsw'} & set(sys.modules))"
    )
    assert shell("env", f"PYTHONPATH={CHECKOUT}", sys.executable, "-c", code) == "set()\n"
