"""Who keeps a mount busy: processes, loop devices and mounts inside it.

Reads links under /proc and /sys only, so that looking never waits for the mount. A user without
root sees only their own processes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from thincow.mount.mount_table import MountEntry, read_mount_table

_MAX_NAMED = 3


def name_holders(mount_point: Path, own_pid: int | None = None) -> str:
    """Return in a few words who uses a mount, or an admission that nobody was found.

    Args:
        mount_point: absolute, links resolved.
        own_pid: the process that serves the mount, which does not count.
    """
    table = read_mount_table()
    found = [
        *_loop_devices(mount_point, table),
        *_inner_mounts(mount_point, table),
        *_processes(mount_point, own_pid),
    ]
    if not found:
        return "somebody who cannot be seen from here uses it (look as root)"
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return ", ".join(found[:_MAX_NAMED]) + more


def _processes(mount_point: Path, own_pid: int | None) -> Iterator[str]:
    for directory in Path("/proc").iterdir():
        if not directory.name.isdecimal() or directory.name == str(own_pid):
            continue
        try:
            place = next(_places_used(directory, mount_point), None)
            if place is not None:
                name = (directory / "comm").read_text(errors="replace").strip()
                yield f"{name} (pid {directory.name}) uses {place}"
        except OSError:
            continue  # the process ended, or is another user's


def _places_used(directory: Path, mount_point: Path) -> Iterator[str]:
    links = [directory / name for name in ("cwd", "root", "exe")]
    for link in (*links, *(directory / "fd").iterdir()):
        target = _link_target(link)
        if _is_inside(target, mount_point):
            yield target
    for line in (directory / "maps").read_text(errors="replace").splitlines():
        mapped = line[line.find("/") :] if "/" in line else ""
        if _is_inside(mapped, mount_point):
            yield mapped


def _link_target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _loop_devices(mount_point: Path, table: list[MountEntry]) -> Iterator[str]:
    for backing in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            target = os.fsdecode(backing.read_bytes()).rstrip("\n")
        except OSError:
            continue  # detached meanwhile
        if _is_inside(target, mount_point):
            device = f"/dev/{backing.parent.parent.name}"
            places = [str(entry.path) for entry in table if entry.source == device]
            mounted = f", mounted on {places[0]}" if places else ""
            yield f"loop device {device} uses {target}{mounted}"


def _inner_mounts(mount_point: Path, table: list[MountEntry]) -> Iterator[str]:
    for entry in table:
        if entry.path != mount_point and entry.path.is_relative_to(mount_point):
            yield f"{entry.filesystem_type} is mounted on {entry.path}"


def _is_inside(target: str, mount_point: Path) -> bool:
    return target == str(mount_point) or target.startswith(f"{mount_point}/")
