"""Loop devices that are always given back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounting import shell


@contextmanager
def loop_device(backing: Path, *options: str) -> Iterator[Path]:
    """Attach a loop device to a file for the length of a block."""
    device = Path(shell("losetup", "--find", "--show", *options, backing).strip())
    try:
        yield device
    finally:
        shell("losetup", "--detach", device, check=False)


@contextmanager
def mounted(device: Path, point: Path, *options: str) -> Iterator[Path]:
    """Mount a filesystem for the length of a block."""
    point.mkdir(exist_ok=True)
    shell("mount", *options, device, point)
    try:
        yield point
    finally:
        shell("umount", point)
