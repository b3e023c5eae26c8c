"""What files and block devices stand on, and whether two of them share bytes.

Owns the walk from a path down to the devices below it: a file stands on the devices of its
filesystem, a partition on its disk, a loop device on its backing file, a device-mapper or md
device on its slaves. It only reads (sysfs, mountinfo, `stat`) and never opens a device.

A *region* is a range of bytes of one file or device, *exact* when the walked thing is precisely
that range (a partition in its disk), else it lies only somewhere inside (a file in its
filesystem's device). Two things overlap when a region of one meets a region of the other and at
least one of the two is exact: two files of one filesystem, two partitions of one disk and two
volumes of one volume group stay apart, a disk and anything on it do not.
"""

import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from thincow.errors import ConfigurationError
from thincow.store.host_view import HostView, LoopBacking

_UNBOUNDED: Final = 1 << 63


class Node(NamedTuple):
    """One file (filesystem device and inode) or block device (device number, inode 0)."""

    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes `start` ... `end` of a node; see the module docstring for `exact`."""

    node: Node
    label: str
    start: int = 0
    end: int = _UNBOUNDED
    exact: bool = True

    def meets(self, other: "Region") -> bool:
        """Return whether the two share bytes for certain."""
        return (
            self.node == other.node
            and (self.exact or other.exact)
            and max(self.start, other.start) < min(self.end, other.end)
        )


def regions_of(path: Path, view: HostView) -> list[Region]:
    """Return every region that the file, directory or block device `path` occupies.

    The first one of a file or device is itself; a directory has only those of its filesystem.

    Raises:
        OSError: when `path` cannot be examined.
    """
    found: list[Region] = []
    to_visit = _regions_at(path, view)
    while to_visit:
        region = to_visit.pop(0)
        if region not in found:
            found.append(region)
            if region.node.inode == 0:
                to_visit += _below_device(region, view)
    return found


def find_overlap(things: Sequence[tuple[str, list[Region]]]) -> tuple[str, str, str] | None:
    """Return the names of two things that share bytes and the label of what they share."""
    by_node: defaultdict[Node, list[tuple[str, Region]]] = defaultdict(list)
    for name, regions in things:
        for region in regions:
            by_node[region.node].append((name, region))
    for members in by_node.values():
        # Thousands of files may stand on one device inexactly: only the few exact ones are tried.
        for name, region in members:
            if not region.exact:
                continue
            for other_name, other in members:
                if other_name != name and region.meets(other):
                    first, second = sorted((name, other_name))
                    return first, second, region.label
    return None


def refuse_overlaps(upstreams: Iterable[tuple[str, Path]], view: HostView | None = None) -> None:
    """Check that no two upstream devices, given as names and paths, share bytes.

    Raises:
        ConfigurationError: naming the two and what they share.
    """
    chosen = view or HostView()
    overlap = find_overlap([(name, _examine(path, chosen)) for name, path in upstreams])
    if overlap is not None:
        first, second, shared = overlap
        raise ConfigurationError(
            f"upstream devices {first} and {second} overlap: both have bytes in {shared}"
        )


def refuse_data_on_served_device(
    directories: Iterable[Path],
    upstreams: Iterable[tuple[str, Path]],
    view: HostView | None = None,
) -> None:
    """Check that no store directory lies, however indirectly, on a device that is served.

    A directory that does not exist yet counts as the nearest one above it that does.

    Raises:
        ConfigurationError: naming the directory and the upstream device.
    """
    chosen = view or HostView()
    served = [(name, _examine(path, chosen)) for name, path in upstreams]
    for directory in directories:
        existing = directory.absolute()
        while not existing.exists():
            existing = existing.parent
        below = _examine(existing, chosen)
        for name, regions in served:
            overlap = find_overlap([("directory", below), ("upstream", regions)])
            if overlap is not None:
                raise ConfigurationError(
                    f"directory {directory} lies on {overlap[2]}, which is served as upstream "
                    f"device {name}; put the store on another filesystem"
                )


def _examine(path: Path, view: HostView) -> list[Region]:
    try:
        return regions_of(path, view)
    except OSError as error:
        raise ConfigurationError(f"cannot examine {path}: {error.strerror}") from error


def _regions_at(path: Path, view: HostView) -> list[Region]:
    """Return what `path` is: a device, or a file and its filesystem's devices."""
    status = path.stat()
    if stat.S_ISBLK(status.st_mode):
        return [Region(Node(status.st_rdev, 0), str(path))]
    below = [
        Region(Node(device, 0), view.label(device), exact=False)
        for device in view.filesystem_devices(path)
    ]
    if stat.S_ISDIR(status.st_mode):
        return below
    return [Region(Node(status.st_dev, status.st_ino), str(path)), *below]


def _below_device(region: Region, view: HostView) -> list[Region]:
    """Return the regions one step below a region of a block device."""
    device = region.node.device
    partition = view.partition(device)
    if partition is not None:
        disk = Region(Node(partition.disk, 0), view.label(partition.disk))
        return [_part_of(disk, region, partition.start_bytes, partition.size_bytes)]
    backing = view.loop_backing(device)
    if backing is not None:
        return _below_loop(region, backing, view)
    return [Region(Node(slave, 0), view.label(slave), exact=False) for slave in view.slaves(device)]


def _below_loop(region: Region, backing: LoopBacking, view: HostView) -> list[Region]:
    try:
        regions = _regions_at(backing.path, view)
    except OSError:
        # Deleted, or in another mount namespace: no path can name it as upstream either.
        return []
    size_bytes = _UNBOUNDED if backing.size_bytes is None else backing.size_bytes
    return [_part_of(below, region, backing.offset_bytes, size_bytes) for below in regions]


def _part_of(below: Region, above: Region, offset_bytes: int, size_bytes: int) -> Region:
    """Return the part of `below` that holds `above`, whose device is a range of `below`.

    An inexact `below` (the filesystem around a backing file) says nothing narrower.
    """
    if not below.exact:
        return below
    return replace(
        below,
        start=offset_bytes + above.start,
        end=offset_bytes + min(size_bytes, above.end),
        exact=above.exact,
    )
