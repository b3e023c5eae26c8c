"""Loop devices, their partitions, and filesystems on them, always given back."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SECTOR = 512


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def loop_device(backing: Path, *options: str) -> Iterator[Path]:
    """Attach a loop device to a file or device for the length of a block."""
    device = Path(_run("losetup", "--find", "--show", *options, backing).strip())
    try:
        yield device
    finally:
        _run("losetup", "--detach", device)


@contextmanager
def partition(disk: Path, number: int, offset_bytes: int, size_bytes: int) -> Iterator[Path]:
    """Let the kernel know a partition of a loop device made with `--partscan`."""
    sectors = (str(offset_bytes // _SECTOR), str(size_bytes // _SECTOR))
    _run("addpart", disk, str(number), *sectors)
    try:
        yield disk.with_name(f"{disk.name}p{number}")
    finally:
        _run("delpart", disk, str(number))


@contextmanager
def mounted(device: Path, point: Path, *options: str) -> Iterator[Path]:
    """Mount a filesystem for the length of a block."""
    point.mkdir(exist_ok=True)
    _run("mount", *options, device, point)
    try:
        yield point
    finally:
        _run("umount", point)


def read_only_what_is_asked(device: Path) -> None:
    """Switch a block device's read-ahead off, which would widen one bad block to many."""
    _run("blockdev", "--setra", "0", device)
