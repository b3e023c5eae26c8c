"""A btrfs RAID10 of four disk images, and its conversion to a single device."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.loop_devices import loop_device, mounted, read_only_what_is_asked
from tests.support.mounting import shell

MIB = 1 << 20
NAMES = ("a", "b", "c", "d")
FILE_SIZE = 150 * MIB


class Array:
    """Disk images with a RAID10 in them that holds one large file, and an empty image.

    `paths` are the images themselves, by the name under which they are served.
    """

    def __init__(self, directory: Path, elsewhere: dict[str, Path]) -> None:
        self.paths = {name: elsewhere.get(name, directory / name) for name in (*NAMES, "single")}
        for name, path in self.paths.items():
            with path.open("wb") as file:
                file.truncate((512 if name == "single" else 128) * MIB)
        with ExitStack() as stack:
            loops = [stack.enter_context(loop_device(self.paths[name])) for name in NAMES]
            shell("mkfs.btrfs", "-q", "-d", "raid10", "-m", "raid1c4", *loops)
            with known_to_btrfs(loops), mounted(loops[0], directory.parent / "fs") as root:
                content = os.urandom(FILE_SIZE)
                (root / "file").write_bytes(content)
        self.file_hash = hashlib.sha256(content).hexdigest()
        self.hashes = self.hash_images()

    def hash_images(self) -> dict[str, str]:
        return {name: hash_file(path) for name, path in self.paths.items()}


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def known_to_btrfs(devices: Sequence[Path]) -> Iterator[None]:
    """Let the kernel find the devices of a filesystem; a copy of them must not meet them there."""
    shell("btrfs", "device", "scan", *devices)
    try:
        yield
    finally:
        for device in devices:  # those that were removed are forgotten already
            shell("btrfs", "device", "scan", "--forget", device, check=False)


@dataclass(frozen=True, slots=True)
class Conversion:
    """How a conversion went: btrfs's counts of errors by then, and how long its balance took."""

    errors: str
    balance_s: float


def convert(images: Path, fs: Path, array: Array) -> Conversion:
    """Convert an array, its images or what is served for them, to the single device.

    `fs` is where it is mounted meanwhile.
    """
    with ExitStack() as stack:
        old = [stack.enter_context(loop_device(images / name)) for name in NAMES]
        new = stack.enter_context(loop_device(images / "single"))
        for loop in old:
            read_only_what_is_asked(loop)
        stack.enter_context(known_to_btrfs(old))
        with mounted(old[0], fs):
            shell("btrfs", "device", "add", "-f", new, fs)
            profiles = ("-dconvert=single", "-mconvert=single")
            begin = time.perf_counter()
            shell("btrfs", "balance", "start", "--force", *profiles, fs)
            balance_s = time.perf_counter() - begin
            errors = shell("btrfs", "device", "stats", fs)
            shell("btrfs", "device", "remove", *old, fs)
        with known_to_btrfs([new]), mounted(new, fs) as root:
            assert hash_file(root / "file") == array.file_hash
    return Conversion(errors, balance_s)
