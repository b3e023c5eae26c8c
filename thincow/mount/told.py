"""What a live mount tells of itself: in files of its tree, or in attributes when it is a file."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from thincow.errors import MountPointError
from thincow.mount.mount_table import MountEntry

ATTRIBUTE_PREFIX: Final = "user.thincow."
FACTS_NAME: Final = "overlay.json"
"""Only overlays tell it: where their store and the original are, as JSON."""
HOLD_NAME: Final = "debug/hold.json"
"""Tells the same of other mounts."""


def attribute_of(name: str) -> str:
    """Return the attribute of an overlay that tells what a file of other mounts does."""
    return ATTRIBUTE_PREFIX + name.rpartition("/")[2]


def read_told(root: int, name: str) -> bytes:
    """Return what an open mount tells under the name of a file in its tree, like `stats.txt`.

    Raises:
        OSError: when it does not.
    """
    if stat.S_ISREG(os.fstat(root).st_mode):
        return os.getxattr(root, attribute_of(name))
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root), "rb") as file:
        return file.read()


def with_mount(place: Path, entry: MountEntry, call: Callable[[int], bytes]) -> bytes:
    """Open a mount and return what a call makes of the descriptor, if need be as its owner.

    The kernel keeps root out of what others mount.

    Raises:
        MountPointError: when it is another user's, and we may not become them.
        OSError: as the call does.
    """
    try:
        root = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if os.geteuid() != 0:
            raise MountPointError(f"{place} was mounted by another user") from None
        return _in_child(entry, lambda: with_mount(place, entry, call))
    try:
        return call(root)
    finally:
        os.close(root)


def _in_child(entry: MountEntry, call: Callable[[], bytes]) -> bytes:
    """Make a call in a process of the user who mounted. Only where there are no threads."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            os.setgroups([])
            os.setgid(int(entry.options["group_id"]))
            os.setuid(int(entry.options["user_id"]))
            os.write(write_end, b"0 " + call())
        except OSError as error:
            os.write(write_end, b"%d " % (error.errno or 0))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        code, _, content = pipe.read().partition(b" ")
    os.waitpid(child, 0)
    if code != b"0":
        raise OSError(int(code or 5), os.strerror(int(code or 5)))
    return content
