"""Overlays from outside: whether one can be mounted, what is known of it, and its end."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from thincow.engine.discard import discard_store
from thincow.engine.options import StoreOptions
from thincow.errors import ConfigurationError, MountPointError, NoStoreError
from thincow.mount.mount_point import is_stale, recover_stale
from thincow.mount.mount_table import find_mount
from thincow.mount.options import MountOptions
from thincow.mount.stop import stop_mount
from thincow.mount.told import FACTS_NAME, HOLD_NAME, read_told, with_mount
from thincow.mount.virtual_file import (
    check_virtual_file,
    refuse_busy_original,
    remove_virtual_file,
)
from thincow.store.disk import Disk
from thincow.store.overlay_record import read_record

_log = logging.getLogger(__name__)

_SUFFIX: Final = ".thincow"


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where a store is. `original` is None when it is not that of an overlay.

    `is_over`: it was being removed, and what is left is to be removed, too.
    """

    data_dir: Path
    metadata_dir: Path
    original: Path | None
    is_over: bool = False


def default_data_dir(virtual: Path) -> Path:
    """Return where the store of an overlay is when nothing else is said."""
    place = virtual.resolve()
    return place.with_name(place.name + _SUFFIX)


def check_overlay(store: StoreOptions, options: MountOptions) -> None:
    """Refuse what cannot be an overlay, before anything is made.

    Raises:
        MountPointError, ConfigurationError: when it cannot.
    """
    assert options.original is not None
    places = {"data directory": store.data_dir, "metadata directory": store.metadata_dir}
    directories = [(what, path) for what, path in places.items() if path is not None]
    check_virtual_file(options.mount_point, options.original, directories)
    if not store.force:
        refuse_busy_original(options.original)


def find_store(mount_point: Path) -> StorePlace:
    """Return where the store of a live mount is.

    Raises:
        MountPointError: when it is no mount of ours, or does not answer.
        ConfigurationError: when its metadata are in memory only.
    """
    place = mount_point.resolve()
    entry = find_mount(place)
    if entry is None or not entry.is_thincow:
        raise MountPointError(f"{mount_point} is not a thincow mount")
    if is_stale(place):
        raise MountPointError(f"{mount_point} was left mounted by a thincow that died: mount again")
    try:
        name = FACTS_NAME if place.is_file() else HOLD_NAME
        told = with_mount(place, entry, lambda root: read_told(root, name))
    except OSError as error:
        raise MountPointError(f"{mount_point} does not answer: {error.strerror}") from None
    facts: dict[str, Any] = json.loads(told)
    if facts["metadata_dir"] is None:
        raise ConfigurationError(
            f"the metadata of {mount_point} are in memory only, and end with the mount"
        )
    original = facts.get("original")
    return StorePlace(
        Path(facts["data_dir"]),
        Path(facts["metadata_dir"]),
        None if original is None else Path(original),
    )


def discard_mount(mount_point: Path) -> None:
    """Unmount and remove the store; of an overlay also when it is not mounted.

    Raises:
        MountPointError: when it is in use, or was not a mount of ours.
        ThincowError: when the store cannot be removed.
    """
    if _is_served(mount_point.resolve()):
        found = find_store(mount_point)
        stop_mount(mount_point)
    else:
        found = end_overlay(mount_point, None, None)
    discard(found.data_dir, found.metadata_dir)


def end_overlay(virtual: Path, data_dir: Path | None, metadata_dir: Path | None) -> StorePlace:
    """Unmount an overlay, if it is mounted, and return where its store is.

    Args:
        virtual: the file.
        data_dir: of its store when it is not mounted; None for the default.
        metadata_dir: the same; None for the data directory.

    Raises:
        MountPointError: when it is no overlay, or in use.
        NoStoreError: when there is no store of it.
    """
    place = virtual.resolve()
    if _is_served(place):
        found = find_store(virtual)
        if found.original is None:
            raise MountPointError(f"{virtual} is not an overlay: 'thincow flush' is for it")
        stop_mount(virtual)
        return found
    if recover_stale(virtual):
        _log.warning("%s was left mounted by a thincow that died", virtual)
    data_dir = data_dir or default_data_dir(virtual)
    record = read_record(Disk(), data_dir)
    if record is None:
        raise NoStoreError(f"{data_dir} holds no overlay: give its --data-dir")
    if record.virtual != place:
        raise NoStoreError(f"{data_dir} holds an overlay on {record.virtual}, not on {virtual}")
    return StorePlace(data_dir, metadata_dir or data_dir, record.original, record.is_over)


def _is_served(place: Path) -> bool:
    """Tell whether a live mount of ours is there."""
    entry = find_mount(place)
    return entry is not None and entry.is_thincow and not is_stale(place)


def finish_discarding(store: StoreOptions) -> None:
    """Remove what is left of an overlay whose removal was cut, if there is anything.

    Raises:
        ThincowError: as `discard` does.
    """
    record = read_record(Disk(), store.data_dir)
    if record is not None and record.is_over:
        discard(store.data_dir, store.metadata_dir or store.data_dir)


def discard(data_dir: Path, metadata_dir: Path, *, only_clean: bool = False) -> None:
    """Remove a store, and the file that was made to mount it on, if there is one.

    Raises:
        ThincowError: as `discard_store` does; then nothing was removed, or not all of it.
    """
    record = read_record(Disk(), data_dir)

    def remove_file() -> None:
        if record is not None and record.made_virtual:
            remove_virtual_file(record.virtual)

    discard_store(data_dir, metadata_dir, only_clean=only_clean, before_the_end=remove_file)
