import os
import subprocess
from pathlib import Path

import pytest

from tests.support.loop_devices import loop_device, mounted, partition
from thincow.errors import ConfigurationError
from thincow.store.block_devices import (
    Node,
    Region,
    find_overlap,
    refuse_data_on_served_device,
    refuse_overlaps,
    regions_of,
)
from thincow.store.host_view import HostView

DISK = os.makedev(8, 0)
FIRST = os.makedev(8, 1)
SECOND = os.makedev(8, 2)
MAPPED = os.makedev(253, 0)
LOOP = os.makedev(7, 0)

MIB = 1 << 20


class FakeHost:
    """A sysfs tree and a mountinfo file; devices have no nodes, only numbers."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "sys/dev/block").mkdir(parents=True)
        (root / "mountinfo").touch()
        self.view = HostView(root / "sys", root / "mountinfo")

    def add(self, device: int, path: str) -> Path:
        directory = self._root / "sys/devices" / path
        (directory / "slaves").mkdir(parents=True)
        numbers = f"{os.major(device)}:{os.minor(device)}"
        (directory / "dev").write_text(numbers + "\n")
        (self._root / "sys/dev/block" / numbers).symlink_to(directory)
        return directory

    def add_disk_with_partitions(self) -> None:
        self.add(DISK, "sda")
        for number, device in ((1, FIRST), (2, SECOND)):
            directory = self.add(device, f"sda/sda{number}")
            (directory / "partition").write_text(f"{number}\n")
            (directory / "start").write_text(f"{2048 * number}\n")
            (directory / "size").write_text("2048\n")

    def add_mapped(self, *slaves: Path) -> None:
        directory = self.add(MAPPED, "dm-0")
        for slave in slaves:
            (directory / "slaves" / slave.name).symlink_to(slave)

    def add_loop(self, file: Path, offset: int = 0, size: int = 0) -> None:
        directory = self.add(LOOP, "loop0") / "loop"
        directory.mkdir()
        (directory / "backing_file").write_text(f"{file}\n")
        (directory / "offset").write_text(f"{offset}\n")
        (directory / "sizelimit").write_text(f"{size}\n")

    def mount(self, path: Path, device: str, fstype: str, source: str, options: str = "rw") -> None:
        """Let the filesystem that really holds `path` look like this one."""
        fd = os.open(path, os.O_PATH)
        facts = Path(f"/proc/self/fdinfo/{fd}").read_text().split()
        os.close(fd)
        mount_id = facts[facts.index("mnt_id:") + 1]
        line = f"{mount_id} 1 {device} / {path} rw shared:1 - {fstype} {source} {options}\n"
        (self._root / "mountinfo").write_text(f"1 0 0:1 / / rw - rootfs none rw\n{line}")


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    (tmp_path / "host").mkdir()
    return FakeHost(tmp_path / "host")


def device(number: int, start: int = 0, end: int = 1 << 63, exact: bool = True) -> Region:
    return Region(Node(number, 0), "label", start, end, exact)


@pytest.mark.parametrize(
    ("other", "meets"),
    [
        (device(DISK, 0, 100), True),
        (device(DISK, 99, 200), True),
        (device(DISK, 100, 200), False),
        (device(DISK, 0, 10), False),
        (device(DISK, 50, 60, exact=False), True),
        (device(FIRST, 0, 100), False),
    ],
)
def test_region_meets_when_bytes_are_shared(other, meets):
    region = device(DISK, 10, 100)
    assert region.meets(other) is meets
    assert other.meets(region) is meets


def test_regions_that_are_both_inexact_do_not_meet():
    assert not device(DISK, exact=False).meets(device(DISK, exact=False))


def test_find_overlap_names_the_two_in_order():
    things = [
        ("b", [device(FIRST), device(DISK, 0, 10)]),
        ("c", [device(SECOND), device(DISK, 10, 20)]),
        ("a", [device(DISK, 15, 30)]),
    ]
    assert find_overlap(things[:2]) is None
    assert find_overlap(things) == ("a", "c", "label")


def test_find_overlap_of_many_files_of_one_filesystem_is_quick():
    things = [
        (str(n), [Region(Node(1, n + 1), "file"), device(DISK, exact=False)]) for n in range(20000)
    ]
    assert find_overlap(things) is None


def test_regions_of_a_file_are_itself_and_its_filesystem(host, tmp_path):
    host.add_disk_with_partitions()
    host.mount(tmp_path, "8:2", "ext4", "/dev/root")
    file = tmp_path / "file"
    file.touch()
    status = file.stat()
    assert regions_of(file, host.view) == [
        Region(Node(status.st_dev, status.st_ino), str(file)),
        Region(Node(SECOND, 0), "/dev/sda2", exact=False),
        Region(Node(DISK, 0), "/dev/sda", 2 * MIB, 3 * MIB, exact=False),
    ]
    assert regions_of(tmp_path, host.view) == regions_of(file, host.view)[1:]


def test_regions_go_through_device_mapper_and_partitions(host, tmp_path):
    host.add_disk_with_partitions()
    host.add_mapped(*(tmp_path / f"host/sys/devices/sda/sda{n}" for n in (1, 2)))
    host.mount(tmp_path, "253:0", "xfs", "/dev/mapper/some")
    assert [(r.label, r.start, r.exact) for r in regions_of(tmp_path, host.view)] == [
        ("/dev/dm-0", 0, False),
        ("/dev/sda1", 0, False),
        ("/dev/sda2", 0, False),
        ("/dev/sda", MIB, False),
        ("/dev/sda", 2 * MIB, False),
    ]


def test_regions_go_through_a_loop_device_to_a_range_of_its_file(host, tmp_path):
    file = tmp_path / "image"
    file.touch()
    host.add_loop(file, offset=4096, size=8192)
    host.mount(tmp_path, "7:0", "ext4", "/dev/loop0")
    status = file.stat()
    assert regions_of(tmp_path, host.view) == [
        Region(Node(LOOP, 0), "/dev/loop0", exact=False),
        Region(Node(status.st_dev, status.st_ino), str(file), 4096, 12288, exact=False),
    ]


def test_regions_end_at_a_deleted_backing_file(host, tmp_path):
    host.add_loop(tmp_path / "image (deleted)")
    host.mount(tmp_path, "7:0", "ext4", "/dev/loop0")
    assert [region.label for region in regions_of(tmp_path, host.view)] == ["/dev/loop0"]


def test_regions_of_btrfs_are_all_its_devices(host, tmp_path, monkeypatch):
    host.add_disk_with_partitions()
    monkeypatch.setattr("thincow.store.host_view._block_device_number", {"/dev/sda1": FIRST}.get)
    devices = tmp_path / "host/sys/fs/btrfs/some-uuid/devices"
    devices.mkdir(parents=True)
    for name in ("sda1", "sda2"):
        (devices / name).symlink_to(tmp_path / "host/sys/devices/sda" / name)
    host.mount(tmp_path, "0:40", "btrfs", "/dev/sda1")
    labels = [region.label for region in regions_of(tmp_path, host.view)]
    assert labels == ["/dev/sda1", "/dev/sda2", "/dev/sda", "/dev/sda"]


def test_regions_of_memory_and_network_filesystems_are_the_file_alone(host, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for fstype, source in (("tmpfs", "tmpfs"), ("nfs4", r"server:/a\040b"), ("fuse.x", "/etc")):
        host.mount(tmp_path, "0:50", fstype, source)
        assert [region.label for region in regions_of(file, host.view)] == [str(file)]


def test_regions_of_an_overlay_are_those_of_its_upper_directory(host, tmp_path):
    host.add_disk_with_partitions()
    shared = Path("/dev/shm")
    assert shared.stat().st_dev != tmp_path.stat().st_dev
    host.mount(shared, "8:1", "ext4", "/dev/sda1")
    upper = (tmp_path / "host/mountinfo").read_text()
    host.mount(tmp_path, "0:60", "overlay", "overlay", f"rw,lowerdir=/x,upperdir={shared}")
    with (tmp_path / "host/mountinfo").open("a") as mountinfo:
        mountinfo.write(upper)
    labels = [region.label for region in regions_of(tmp_path, host.view)]
    assert labels == ["/dev/sda1", "/dev/sda"]
    # An upper directory inside the overlay itself leads nowhere.
    host.mount(tmp_path, "0:60", "overlay", "overlay", f"rw,upperdir={tmp_path}")
    assert regions_of(tmp_path, host.view) == []


def test_refuse_overlaps_of_hard_links_and_links(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").touch()
    refuse_overlaps([("a", tmp_path / "a"), ("c", tmp_path / "c")])
    with pytest.raises(ConfigurationError, match=r"devices a and b overlap: .*/[ab]$"):
        refuse_overlaps([("b", tmp_path / "b"), ("a", tmp_path / "a")])


def test_refuse_overlaps_of_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigurationError, match=r"cannot examine .*gone: No such file"):
        refuse_overlaps([("gone", tmp_path / "gone")])


def test_refuse_data_on_served_device_accepts_a_neighbouring_file(tmp_path):
    (tmp_path / "a").touch()
    refuse_data_on_served_device([tmp_path / "not" / "yet"], [("a", tmp_path / "a")])


def refused(upstreams: dict[str, Path]) -> bool:
    try:
        refuse_overlaps(upstreams.items())
    except ConfigurationError:
        return True
    return False


def data_refused(directory: Path, upstream: Path) -> bool:
    try:
        refuse_data_on_served_device([directory], [("up", upstream)])
    except ConfigurationError as error:
        return f"directory {directory} lies on" in str(error)
    return False


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(160 * MIB)
    return path


@pytest.mark.needs_root
def test_real_loop_over_an_upstream_file_is_refused(image, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(bytes(MIB))
    with loop_device(image) as loop, loop_device(other) as other_loop:
        assert refused({"a": loop, "b": image})
        assert refused({"a": loop, "b": loop})
        assert not refused({"a": loop, "b": other_loop})
        assert not refused({"a": loop, "b": other})


@pytest.mark.needs_root
def test_real_loops_over_one_file_are_refused_unless_their_ranges_are_apart(image):
    with (
        loop_device(image) as whole,
        loop_device(image, "--sizelimit", str(MIB)) as head,
        loop_device(image, "--offset", str(MIB)) as tail,
    ):
        assert not refused({"head": head, "tail": tail})
        assert refused({"head": head, "whole": whole})
        assert refused({"tail": tail, "whole": whole})
        with loop_device(head) as stacked:
            assert not refused({"stacked": stacked, "tail": tail})
            assert refused({"stacked": stacked, "image": image})


@pytest.mark.needs_root
def test_real_partitions_and_their_disk(image, tmp_path):
    with (
        loop_device(image, "--partscan") as disk,
        partition(disk, 1, MIB, 20 * MIB) as first,
        partition(disk, 2, 21 * MIB, 20 * MIB) as second,
    ):
        assert not refused({"first": first, "second": second})
        for part in (first, second):
            assert refused({"disk": disk, "part": part})
            assert refused({"image": image, "part": part})
        subprocess.run(["mkfs.ext4", "-q", first], check=True)
        (tmp_path / "mounted").mkdir()
        with mounted(first, tmp_path / "mounted") as directory:
            assert data_refused(directory, first)
            assert data_refused(directory / "not yet", disk)
            assert data_refused(directory, image)
            assert not data_refused(directory, second)
            (directory / "file").write_bytes(b"x")
            assert not data_refused(directory, directory / "file")
            assert refused({"file": directory / "file", "disk": disk})
            assert refused({"file": directory / "file", "part": first})
            assert not refused({"file": directory / "file", "part": second})


@pytest.mark.needs_root
def test_real_btrfs_of_two_devices_counts_as_on_both(image, tmp_path):
    second_image = tmp_path / "image2"
    with second_image.open("wb") as file:
        file.truncate(160 * MIB)
    (tmp_path / "mounted").mkdir()
    with loop_device(image) as first, loop_device(second_image) as second:
        subprocess.run(["mkfs.btrfs", "-q", first, second], check=True)
        with mounted(first, tmp_path / "mounted") as directory:
            subvolume = directory / "subvolume"
            subprocess.run(
                ["btrfs", "subvolume", "create", subvolume], check=True, capture_output=True
            )
            for place in (directory, subvolume):
                for upstream in (first, second, image, second_image):
                    assert data_refused(place, upstream)
