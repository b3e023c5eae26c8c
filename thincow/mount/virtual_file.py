"""The file that an overlay is mounted on: whether it can be used, made when it is missing, removed.

It is empty: what a mount would hide is never a file that has content.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from thincow.errors import ConfigurationError, MountPointError
from thincow.mount.holders import name_holders
from thincow.mount.mount_point import is_stale
from thincow.mount.mount_table import find_mount


def check_virtual_file(
    virtual: Path, original: Path, directories: Iterable[tuple[str, Path]]
) -> None:
    """Refuse a file that cannot be mounted on; a dead thincow's mount on it is fine.

    Args:
        virtual: where to mount; it need not exist.
        original: the file that is to be shown there.
        directories: what else is in use, as (what it is, where it is); neither file may lie there.

    Raises:
        MountPointError: when it cannot be used.
        ConfigurationError: when the original lies in one of the directories.
    """
    place = virtual.resolve()
    entry = find_mount(place)
    if entry is not None and not (entry.is_thincow and is_stale(place)):
        what = "a thincow" if entry.is_thincow else f"a filesystem ({entry.filesystem_type})"
        raise MountPointError(f"{virtual} is in use: {what} is mounted on it")
    if entry is None:
        _check_unmounted(virtual, place, original)
    for what, directory in directories:
        if place.is_relative_to(directory.resolve()):
            raise MountPointError(f"{virtual} lies in the {what} {directory}")
        if original.resolve().is_relative_to(directory.resolve()):
            raise ConfigurationError(f"{original} lies in the {what} {directory}")


def _check_unmounted(virtual: Path, place: Path, original: Path) -> None:
    if place == original.resolve():
        raise MountPointError(f"{virtual} cannot be an overlay of itself: give another name")
    try:
        status = place.stat()
    except FileNotFoundError:
        if not place.parent.is_dir():
            raise MountPointError(f"directory {place.parent} does not exist") from None
        if not os.access(place.parent, os.W_OK | os.X_OK):
            raise MountPointError(f"directory {place.parent} is not writable") from None
        return
    except OSError as error:
        raise MountPointError(f"{virtual}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise MountPointError(f"{virtual} is not a regular file: give a name that is free")
    if status.st_size:
        raise MountPointError(
            f"{virtual} has {status.st_size} bytes of its own: give a name that is free"
        )
    if os.geteuid() != 0 and not os.access(place, os.W_OK):
        raise MountPointError(f"{virtual} may not be written to by this user")


def refuse_busy_original(original: Path) -> None:
    """Check that nobody has a file open for writing, as far as the kernel tells this user.

    Raises:
        ConfigurationError: when somebody has.
    """
    try:
        fd = os.open(original, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # who opens the store says it better
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            who = name_holders(original.resolve(), os.getpid())
            raise ConfigurationError(
                f"{original} is open for writing ({who}): end that first, since it must not change "
                "under the overlay, or use --force"
            ) from None
    finally:
        os.close(fd)


def make_virtual_file(virtual: Path) -> bool:
    """Make the file if it is missing; return whether it was made now.

    Raises:
        MountPointError: when that cannot be done.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        os.close(os.open(virtual.resolve(), flags, 0o600))
    except FileExistsError:
        return False
    except OSError as error:
        raise MountPointError(f"cannot make {virtual}: {error.strerror}") from error
    return True


def remove_virtual_file(virtual: Path) -> None:
    """Remove a file that was made to be mounted on, if it is still what it was then."""
    if find_mount(virtual) is not None:
        return
    with suppress(OSError):
        status = virtual.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            virtual.unlink()
