"""The upstream devices: finding them, and reading them.

Owns what may be an upstream device, and its descriptor. Opens read-only, always: writing upstream
is the business of flush alone. Whether devices overlap is decided in
`thincow.store.block_devices`, whether they are the ones that a store knows in
`thincow.engine.upstream_check`.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thincow.block_types import MAX_DEVICE_BLOCKS
from thincow.errors import ConfigurationError
from thincow.store.devices_table import is_device_name
from thincow.store.disk import Disk

DeviceType = Literal["file", "block"]

_SECTOR_BYTES = 512
_STORE_FILES = ("cowdata", "metadata.db")
_KINDS_OF_FILE = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class UpstreamFile:
    """An upstream device as it was found.

    `path` is the entry of the upstream directory, `resolved_path` what it leads to. `inode` and
    `mtime_ns` are None for a block device: there they belong to the node in /dev.
    """

    name: str
    path: Path
    resolved_path: Path
    type: DeviceType
    size_bytes: int
    inode: int | None
    mtime_ns: int | None
    st_dev: int
    st_rdev: int

    def length_blocks(self, block_size: int) -> int:
        """Return the number of blocks; a partial last one counts."""
        return -(-self.size_bytes // block_size)


class Upstream:
    """An open upstream device.

    Args:
        disk: the seam to open, read and close through.
        file: the device as `scan` found it.

    Raises:
        ConfigurationError: when it cannot be opened or has been replaced since the scan.
    """

    def __init__(self, disk: Disk, file: UpstreamFile) -> None:
        self.file = file
        self._disk = disk
        self.fd = _open(disk, file.name, file.resolved_path)
        self.size_bytes = file.size_bytes
        self.medium: int | None = None
        """What is in a block device: another disk may come under its number later."""
        try:
            self._check_identity()
            if file.type == "block":
                self.medium = disk.medium(self.fd)
        except BaseException:
            self.close()
            raise

    def allocated_bytes(self) -> int:
        """Return how much space it takes; of a block device all."""
        if self.file.type == "block":
            return self.size_bytes
        return os.fstat(self.fd).st_blocks * _SECTOR_BYTES

    def close(self) -> None:
        """Close the device; a second call does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            self._disk.close(fd)

    def _check_identity(self) -> None:
        status = os.fstat(self.fd)
        same = (
            status.st_rdev == self.file.st_rdev
            if self.file.type == "block"
            else (status.st_dev, status.st_ino) == (self.file.st_dev, self.file.inode)
        )
        if not same or self._disk.size(self.fd) != self.file.size_bytes:
            raise ConfigurationError(
                f"upstream device {self.file.name} was changed while it was being opened; try again"
            )


def scan(directory: Path, disk: Disk | None = None) -> list[UpstreamFile]:
    """Return the devices in the upstream directory, sorted by name.

    Each is opened for reading and closed again.

    Raises:
        ConfigurationError: when the directory is missing, unreadable or empty, or an entry cannot
            be a device: the text names it.
    """
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - names, not paths, are checked
    except OSError as error:
        raise ConfigurationError(
            f"cannot read upstream directory {directory}: {error.strerror}"
        ) from error
    if not names:
        raise ConfigurationError(f"upstream directory {directory} is empty: nothing to serve")
    return [_examine(disk or Disk(), directory, name) for name in names]


def examine_file(path: Path, disk: Disk | None = None) -> UpstreamFile:
    """Return the device that a path leads to, under its own name.

    Raises:
        ConfigurationError: when it cannot be a device.
    """
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "symbolic links in a circle"
        raise ConfigurationError(f"cannot use {path}: {reason}") from error
    return _examine(disk or Disk(), resolved.parent, resolved.name)


def scan_place(place: Path, disk: Disk | None = None) -> list[UpstreamFile]:
    """Return the devices in a directory, or the only one when it is a device itself.

    Raises:
        ConfigurationError: as `scan` does.
    """
    if place.is_file() or place.is_block_device():
        return [examine_file(place, disk)]
    return scan(place, disk)


def require_addressable(files: Iterable[UpstreamFile], block_size: int) -> None:
    """Check that every device has few enough blocks for a block address.

    Raises:
        ConfigurationError: naming the first one that is too large.
    """
    for file in files:
        if file.length_blocks(block_size) > MAX_DEVICE_BLOCKS:
            raise ConfigurationError(
                f"upstream device {file.name} has more than 2^40 blocks of {block_size} bytes; "
                "use a larger --block-size"
            )


def require_possible_extra(
    extra: Mapping[str, int], files: Iterable[UpstreamFile], block_size: int
) -> None:
    """Check names and sizes of devices without upstream that are to be made.

    Raises:
        ConfigurationError: when one cannot be.
    """
    for name, size_bytes in extra.items():
        if name in {file.name for file in files}:
            raise ConfigurationError(f"{name} is an upstream device: give --size another name")
        if not is_device_name(name):
            raise ConfigurationError(f"a device cannot have the name {name!r}")
        if size_bytes > MAX_DEVICE_BLOCKS * block_size:
            raise ConfigurationError(
                f"device {name} cannot have more than 2^40 blocks of {block_size} bytes; use a "
                "larger --block-size"
            )


def refuse_store_among_upstreams(
    directories: Sequence[Path], upstream_directory: Path | None, files: Iterable[UpstreamFile]
) -> None:
    """Check that the store is not in the upstream directory and is not served itself.

    Args:
        directories: data and metadata directory; they need not exist.
        upstream_directory: the directory that `files` were found in, if it was one.
        files: the upstream devices.

    Raises:
        ConfigurationError: naming the directory or device.
    """
    upstream = None if upstream_directory is None else upstream_directory.resolve()
    resolved = [directory.resolve() for directory in directories]
    for directory in resolved if upstream is not None else ():
        if directory == upstream:
            raise ConfigurationError(f"{directory} cannot be both store and upstream directory")
        if upstream in directory.parents:
            raise ConfigurationError(
                f"directory {directory} lies inside the upstream directory {upstream}"
            )
    for file in files:
        if file.resolved_path.parent in resolved and file.resolved_path.name.startswith(
            _STORE_FILES
        ):
            raise ConfigurationError(f"upstream device {file.name} is a file of the store itself")


def _examine(disk: Disk, directory: Path, name: str) -> UpstreamFile:
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise ConfigurationError(
            f"upstream device {name!r}: names with control characters or that are not UTF-8 "
            "cannot be served"
        )
    path = directory / name
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or "symbolic links in a circle"
        raise ConfigurationError(f"cannot use upstream device {name}: {reason}") from error
    if stat.S_ISBLK(status.st_mode):
        kind: DeviceType = "block"
    elif stat.S_ISREG(status.st_mode):
        kind = "file"
    else:
        what = _KINDS_OF_FILE.get(stat.S_IFMT(status.st_mode), "something else")
        raise ConfigurationError(
            f"upstream device {name} is {what}: only regular files, block devices and symbolic "
            "links to them can be served"
        )
    fd = _open(disk, name, resolved)
    try:
        size_bytes = disk.size(fd)
    except OSError as error:
        raise ConfigurationError(
            f"cannot tell the size of upstream device {name}: {error.strerror}"
        ) from error
    finally:
        disk.close(fd)
    return UpstreamFile(
        name=name,
        path=path,
        resolved_path=resolved,
        type=kind,
        size_bytes=size_bytes,
        inode=status.st_ino if kind == "file" else None,
        mtime_ns=status.st_mtime_ns if kind == "file" else None,
        st_dev=status.st_dev,
        st_rdev=status.st_rdev,
    )


def _open(disk: Disk, name: str, path: Path) -> int:
    try:
        return disk.open(path, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"cannot read upstream device {name}: {error.strerror}") from error
