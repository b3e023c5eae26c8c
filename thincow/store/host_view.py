"""What the kernel says about block devices, loop devices and mounts.

Owns reading sysfs and mountinfo; it never opens a device. What follows from the facts is decided
in `thincow.store.block_devices`. A device that goes away while it is looked at counts as one
that the kernel does not know.
"""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SECTOR_BYTES = 512
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a partition lies in its disk (a device number), in bytes."""

    disk: int
    start_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LoopBacking:
    """What a loop device shows: a file from an offset on; `size_bytes` None: to its end."""

    path: Path
    offset_bytes: int
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of mountinfo."""

    device: int
    fstype: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostView:
    """Where the kernel describes its devices and mounts; tests give a made-up tree."""

    sys_root: Path = Path("/sys")
    mountinfo: Path = Path("/proc/self/mountinfo")

    def label(self, device: int) -> str:
        """Return the name of a block device for people."""
        directory = self._directory(device)
        return f"/dev/{directory.name}" if directory else f"device {_numbers(device)}"

    def partition(self, device: int) -> Partition | None:
        """Return where a partition lies; None when the device is none."""
        directory = self._directory(device)
        if directory is None or not (directory / "partition").exists():
            return None
        disk = _read_device_number(directory.parent / "dev")
        start = _read_number(directory / "start")
        size = _read_number(directory / "size")
        if disk is None or start is None or size is None:
            return None
        return Partition(disk, start * _SECTOR_BYTES, size * _SECTOR_BYTES)

    def loop_backing(self, device: int) -> LoopBacking | None:
        """Return what a loop device is attached to; None for every other device."""
        directory = self._directory(device)
        if directory is None:
            return None
        try:
            name = (directory / "loop" / "backing_file").read_bytes().removesuffix(b"\n")
        except OSError:
            return None
        return LoopBacking(
            path=Path(os.fsdecode(name)),
            offset_bytes=_read_number(directory / "loop" / "offset") or 0,
            size_bytes=_read_number(directory / "loop" / "sizelimit") or None,
        )

    def loops_over(self, device: int, inode: int | None) -> list[str]:
        """Return the loop devices attached to a file, by its device and inode number."""
        found = []
        for backing in sorted(self.sys_root.glob("block/loop*/loop/backing_file")):
            try:
                status = Path(os.fsdecode(backing.read_bytes().removesuffix(b"\n"))).stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) == (device, inode):
                found.append(f"/dev/{backing.parent.parent.name}")
        return found

    def slaves(self, device: int) -> list[int]:
        """Return the devices that a device-mapper, md or bcache device is made of."""
        directory = self._directory(device)
        return _device_numbers((directory / "slaves").glob("*/dev")) if directory else []

    def filesystem_devices(self, path: Path) -> list[int]:
        """Return the block devices below the filesystem that `path` lies on.

        None for memory, network and FUSE filesystems. Raises `OSError` when `path` is missing.
        """
        mount = self._mount_of(path)
        if mount is None:
            return []
        if mount.fstype == "overlay":
            upper = [o.removeprefix("upperdir=") for o in mount.options if o.startswith("upperdir")]
            return [d for directory in upper for d in self._of_upper(Path(directory), path)]
        if os.major(mount.device) != 0:
            return [mount.device]
        # Filesystems that can span devices (btrfs, bcachefs) have anonymous device numbers.
        parts = [_block_device_number(part) for part in mount.source.split(":")]
        devices = [part for part in parts if part is not None]
        for filesystem in self.sys_root.glob("fs/btrfs/*/devices"):
            members = _device_numbers(filesystem.glob("*/dev"))
            if set(members) & set(devices):
                return members
        return devices

    def _of_upper(self, upper: Path, path: Path) -> list[int]:
        # An upper directory that leads back into its own overlay would send us round in circles.
        if not upper.is_dir() or upper.stat().st_dev == path.stat().st_dev:
            return []
        return self.filesystem_devices(upper)

    def _directory(self, device: int) -> Path | None:
        link = self.sys_root / "dev" / "block" / _numbers(device)
        return link.resolve() if link.exists() else None

    def _mount_of(self, path: Path) -> _Mount | None:
        # By mount id, not by device: btrfs gives each subvolume a device number of its own,
        # which no line of mountinfo mentions.
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            facts = Path(f"/proc/self/fdinfo/{fd}").read_text("ascii").split()
        finally:
            os.close(fd)
        mount_id = facts[facts.index("mnt_id:") + 1]
        for line in os.fsdecode(self.mountinfo.read_bytes()).split("\n"):
            fields = line.split(" ")
            if fields[0] == mount_id:
                major, minor = fields[2].split(":")
                fstype, source, options = fields[fields.index("-") + 1 :][:3]
                return _Mount(
                    device=os.makedev(int(major), int(minor)),
                    fstype=fstype,
                    source=_unescape(source),
                    options=tuple(_unescape(o) for o in options.split(",")),
                )
        return None


def _numbers(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _device_numbers(files: Iterable[Path]) -> list[int]:
    return [number for file in sorted(files) if (number := _read_device_number(file)) is not None]


def _read_device_number(file: Path) -> int | None:
    try:
        major, minor = file.read_text("ascii").split(":")
    except OSError:
        return None
    return os.makedev(int(major), int(minor))


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text("ascii"))
    except OSError:
        return None


def _block_device_number(source: str) -> int | None:
    try:
        status = Path(source).stat()
    except OSError:
        return None
    return status.st_rdev if stat.S_ISBLK(status.st_mode) else None


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
