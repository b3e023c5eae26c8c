"""Ending a mount from outside: unmounts and waits until the process that served it has ended.

Never kills anything. Success means that every write that came before is durable: they are synced
through the mount first, since the end of the serving process tells nothing about its last commit.
"""

import errno
import os
import select
from pathlib import Path
from typing import Final

from thincow.errors import MountPointError
from thincow.mount.holders import name_holders
from thincow.mount.mount_point import is_stale, recover_stale, unmount
from thincow.mount.mount_table import MountEntry, find_mount
from thincow.mount.told import read_told, with_mount

_PID_FILE: Final = "debug/pid.txt"


def stop_mount(mount_point: Path) -> None:
    """Unmount and return when the store is closed.

    Raises:
        MountPointError: when it is not a mount of ours or busy (it stays mounted), or when its
            last changes could not be saved.
    """
    place = mount_point.resolve()
    os.chdir("/")  # or this process itself might keep the mount busy
    entry = find_mount(place)
    if entry is None or not entry.is_thincow:
        raise MountPointError(f"{mount_point} is not a thincow mount")
    if is_stale(place):
        recover_stale(place)
        raise MountPointError(
            f"{mount_point} was left mounted by a thincow that died; unmounted it (what was not "
            "synced is lost)"
        )
    pid = _serving_pid(place, entry)
    process = _open_process(pid)
    try:
        unsaved = _sync(place, entry)
        if unsaved is not None and unsaved.errno == errno.ENOSPC:
            raise MountPointError(
                f"{mount_point} stays mounted, since there is no space left to save its last "
                "changes; make room and try again"
            )
        _unmount(place, pid)
        if process is not None:
            select.select([process], [], [])
    finally:
        if process is not None:
            os.close(process)
    if unsaved is not None:
        raise MountPointError(
            f"{mount_point} is unmounted, but its last changes could not be saved "
            f"({unsaved.strerror}); its log says more"
        )


def _serving_pid(place: Path, entry: MountEntry) -> int:
    try:
        text = with_mount(place, entry, lambda root: read_told(root, _PID_FILE)).strip()
    except OSError as error:
        raise MountPointError(f"{place} does not answer: {error.strerror}") from None
    if not text.isdigit():
        raise MountPointError(f"{place} does not say which process serves it")
    return int(text)


def _open_process(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None if it has."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _sync(place: Path, entry: MountEntry) -> OSError | None:
    """Make everything written durable; return what hindered it."""

    def sync(root: int) -> bytes:
        os.fsync(root)
        return b""

    try:
        with_mount(place, entry, sync)
    except OSError as error:
        return error
    return None


def _unmount(place: Path, pid: int) -> None:
    try:
        unmount(place, lazily=False)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise MountPointError(f"cannot unmount {place}: {error.strerror}") from None
        raise MountPointError(
            f"{place} is busy and stays mounted: {name_holders(place, pid)}"
        ) from None
