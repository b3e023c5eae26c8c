"""Ending a mount from outside: unmounts and waits until the process that served it has ended.

Never kills anything. Success means that every write that came before is durable: they are synced
through the mount first, since the end of the serving process tells nothing about its last commit.
"""

import errno
import os
import select
import subprocess
from pathlib import Path
from typing import Final

from thincow.errors import MountPointError
from thincow.mount.holders import name_holders
from thincow.mount.mount_point import is_stale, recover_stale, unmount
from thincow.mount.mount_table import MountEntry, find_mount

_PID_FILE: Final = Path("debug/pid.txt")


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
    path = place / _PID_FILE
    try:
        text = path.read_text()
    except PermissionError:
        text = _as_owner(entry, place, "cat", str(path)).stdout
    except OSError as error:
        raise MountPointError(f"{place} does not answer: {error.strerror}") from None
    if not text.strip().isdecimal():
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
    try:
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        done = _as_owner(entry, place, "sync", str(place))
        if done.returncode == 0:
            return None
        code = errno.ENOSPC if os.strerror(errno.ENOSPC) in done.stderr else errno.EIO
        return OSError(code, os.strerror(code))
    try:
        os.fsync(directory)
    except OSError as error:
        return error
    finally:
        os.close(directory)
    return None


def _as_owner(entry: MountEntry, place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command as the user who mounted, whom the kernel does not keep out as it does root."""
    if os.geteuid() != 0:
        raise MountPointError(f"{place} was mounted by another user")
    return subprocess.run(
        command,
        user=int(entry.options["user_id"]),
        group=int(entry.options["group_id"]),
        extra_groups=[],
        env={**os.environ, "LC_ALL": "C"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def _unmount(place: Path, pid: int) -> None:
    try:
        unmount(place, lazily=False)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise MountPointError(f"cannot unmount {place}: {error.strerror}") from None
        raise MountPointError(
            f"{place} is busy and stays mounted: {name_holders(place, pid)}"
        ) from None
