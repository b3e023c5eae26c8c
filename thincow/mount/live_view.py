"""Looks at a store while it is mounted: a commit of it, which the mount holds meanwhile.

The file `debug/hold.json`, while open, keeps the contents that its commit refers to from being
overwritten (see `thincow.mount.hold_file`). That ends with the descriptor, so a process that was
killed leaves nothing behind. The database is read as any other process may read it.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from thincow.engine.store_view import StoreView
from thincow.errors import ConfigurationError, MountPointError, StoreFailedError
from thincow.mount.mount_point import is_stale
from thincow.mount.mount_table import find_mount
from thincow.store.database import DATABASE_NAME
from thincow.store.live_snapshot import open_live_snapshot
from thincow.store.snapshot import Snapshot

_HOLD_FILE: Final = Path("debug/hold.json")
_MAX_BYTES: Final = 1 << 16


@contextmanager
def open_live_view(mount_point: Path, purpose: str, *, private: bool) -> Iterator[StoreView]:
    """Look at the last commit of a mounted store, in which everything written before is.

    Args:
        mount_point: of the store.
        purpose: what for, as the statistics and the log of the mount tell it.
        private: whether the look may take long: then the metadata are copied first.

    Raises:
        MountPointError: when it is no mount of ours.
        ConfigurationError: when its store cannot be reached from here.
        StoreFailedError: when it cannot commit.
    """
    place = mount_point.resolve()
    entry = find_mount(place)
    if entry is None or not entry.is_thincow:
        raise MountPointError(f"{mount_point} is not a thincow mount")
    if is_stale(place):
        raise MountPointError(f"{mount_point} was left mounted by a thincow that died: mount again")
    if place.is_file():
        raise MountPointError(f"{mount_point} is an overlay: unmount it first, or use --data-dir")
    with ExitStack() as stack:
        fd, can_write = _open_hold(place)
        stack.callback(_close, fd)
        facts = json.loads(os.read(fd, _MAX_BYTES))
        snapshot = stack.enter_context(_open_snapshot(facts, private=private))
        if can_write:
            os.write(fd, f"{purpose}\n".encode())

        def require_valid() -> None:
            try:
                os.lseek(fd, 0, os.SEEK_SET)
                os.read(fd, 1)
            except OSError as error:
                raise MountPointError(
                    f"{mount_point} was unmounted or its process died meanwhile: nothing of this "
                    "can be relied on"
                ) from error

        yield StoreView(
            snapshot,
            Path(facts["data_dir"]),
            Path(facts["metadata_dir"]),
            None if facts["upstream_dir"] is None else Path(facts["upstream_dir"]),
            require_valid,
        )


def _open_hold(place: Path) -> tuple[int, bool]:
    """Return the descriptor, and whether it takes commands: not on a read-only mount."""
    try:
        return os.open(place / _HOLD_FILE, os.O_RDWR | os.O_CLOEXEC), True
    except OSError as error:
        if error.errno == errno.EROFS:
            return os.open(place / _HOLD_FILE, os.O_RDONLY | os.O_CLOEXEC), False
        if error.errno in (errno.EACCES, errno.EPERM):
            raise MountPointError(
                f"{place} was mounted by another user: run this as them"
            ) from None
        raise StoreFailedError(
            f"the changes in {place} cannot be committed first: {error.strerror}"
        ) from error


def _close(fd: int) -> None:
    """Let go. When the mount died, there is nothing to let go of, and closing answers that."""
    with suppress(OSError):
        os.close(fd)


def _open_snapshot(facts: dict[str, Any], *, private: bool) -> Snapshot:
    if facts["metadata_dir"] is None:
        raise ConfigurationError(
            "the metadata of this mount are in memory only: debug/extents.txt in it lists the map"
        )
    path = Path(facts["metadata_dir"]) / DATABASE_NAME
    if not path.is_file():
        raise ConfigurationError(f"{path}, which the mount uses, cannot be seen from here")
    if facts["read_only"]:
        snapshot = Snapshot.open_offline(path)
    else:
        snapshot = open_live_snapshot(path, private=private)
    if snapshot.globals().get("store_id") != facts["store_id"]:
        snapshot.close()
        raise ConfigurationError(f"{path} is not the one that the mount uses: are they apart?")
    return snapshot
