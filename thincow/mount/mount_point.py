"""The mount point: whether it can be used, and taking mounts off it.

Nothing here may run in the event loop while the mount is live: each function may wait for the
filesystem that is mounted there.
"""

import ctypes
import errno
import os
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from thincow.errors import MountPointError
from thincow.mount.mount_table import find_mount

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def check_mount_point(mount_point: Path, directories: Iterable[tuple[str, Path]]) -> None:
    """Refuse a mount point that cannot be used; a dead thincow's mount on it is fine.

    Args:
        mount_point: where to mount.
        directories: what else is in use, as (what it is, where it is); none of them may lie in
            the mount point (it would be hidden), nor the mount point in one of them.

    Raises:
        MountPointError: when it cannot be used.
    """
    place = mount_point.resolve()
    entry = find_mount(place)
    if entry is not None and not is_stale(place):
        what = "a thincow" if entry.is_thincow else f"a filesystem ({entry.filesystem_type})"
        raise MountPointError(f"mount point {mount_point} is in use: {what} is mounted on it")
    if entry is not None and not entry.is_thincow:
        raise MountPointError(
            f"mount point {mount_point} holds a dead mount ({entry.filesystem_type}); unmount it"
        )
    if entry is None:
        _check_directory(mount_point)
    for what, directory in directories:
        other = directory.resolve()
        if place == other or place.is_relative_to(other):
            raise MountPointError(f"mount point {mount_point} lies in the {what} {directory}")
        if other.is_relative_to(place):
            raise MountPointError(
                f"the {what} {directory} lies in the mount point {mount_point}, which would hide it"
            )


def _check_directory(mount_point: Path) -> None:
    try:
        status = mount_point.stat()
    except FileNotFoundError:
        raise MountPointError(f"mount point {mount_point} does not exist") from None
    except OSError as error:
        raise MountPointError(f"mount point {mount_point}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise MountPointError(f"mount point {mount_point} is not a directory")
    if os.geteuid() != 0 and not os.access(mount_point, os.W_OK):
        raise MountPointError(f"mount point {mount_point} may not be written to by this user")


def is_stale(mount_point: Path) -> bool:
    """Return whether a filesystem is mounted there whose process has died.

    Attributes may still be answered from the kernel's cache; this question never is.
    """
    try:
        os.statvfs(mount_point)
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def recover_stale(mount_point: Path) -> bool:
    """Take the mounts of dead thincow processes off a mount point; True when there were some.

    Files that processes still hold open in them do not hinder it.

    Raises:
        MountPointError: when this user may not unmount it.
    """
    place = mount_point.resolve()
    found = False
    while (entry := find_mount(place)) is not None and entry.is_thincow and is_stale(place):
        try:
            unmount(place, lazily=True)
        except OSError as error:
            raise MountPointError(
                f"{mount_point} was left mounted by a thincow that died and cannot be unmounted: "
                f"{error.strerror}"
            ) from None
        found = True
    return found


def unmount(mount_point: Path, *, lazily: bool) -> None:
    """Take the uppermost mount off a mount point.

    Args:
        mount_point: absolute, links resolved.
        lazily: hide it at once although it is busy; it ends when its last user does.

    Raises:
        OSError: EBUSY when somebody uses it; EPERM or what else the system says.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazily else 0)
    if _libc.umount2(os.fsencode(mount_point), flags) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.EPERM:
        raise OSError(code, os.strerror(code))
    _unmount_as_user(mount_point, lazily=lazily)


def _unmount_as_user(mount_point: Path, *, lazily: bool) -> None:
    """Unmount through the set-uid program, which lets users take down what they mounted."""
    command = ["fusermount3", "-u", *(["-z"] if lazily else []), "--", str(mount_point)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    except FileNotFoundError:
        raise OSError(errno.EPERM, "fusermount3 not found; install the package fuse3") from None
    if done.returncode == 0:
        return
    if "busy" in done.stderr.lower():
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    raise OSError(errno.EPERM, done.stderr.strip() or os.strerror(errno.EPERM))
