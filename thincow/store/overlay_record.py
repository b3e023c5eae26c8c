"""`overlay.json` in a data directory: of which file its store is an overlay, and where."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thincow.errors import CorruptStoreError
from thincow.store.disk import Disk

RECORD_NAME: Final = "overlay.json"
OVER_NAME: Final = "overlay-removed.json"
"""The record while the store is being removed: what is left of it is not to be used."""
_MAX_BYTES: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class OverlayRecord:
    """Absolute paths.

    `made_virtual`: the empty file that is mounted on was made for it. `is_over`: the store is being
    removed, since its changes are upstream or not wanted.
    """

    original: Path
    virtual: Path
    made_virtual: bool
    is_over: bool = False


def read_record(disk: Disk, data_dir: Path) -> OverlayRecord | None:
    """Return what a data directory says; None when its store is no overlay.

    Raises:
        CorruptStoreError: when it cannot be read.
    """
    for path in (data_dir / OVER_NAME, data_dir / RECORD_NAME):
        try:
            fd = disk.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return _read(disk, fd, path)
    return None


def note_over(disk: Disk, data_dir: Path) -> None:
    """Note durably that the store is being removed. Takes no space: a full disk may be why.

    Raises:
        OSError: when that cannot be done.
    """
    disk.rename(data_dir / RECORD_NAME, data_dir / OVER_NAME)
    disk.sync_directory(data_dir)


def _read(disk: Disk, fd: int, path: Path) -> OverlayRecord:
    try:
        match json.loads(disk.read(fd, _MAX_BYTES, 0)):
            case {"original": str(original), "virtual": str(virtual), "made_virtual": bool(made)}:
                is_over = path.name == OVER_NAME
                return OverlayRecord(Path(original), Path(virtual), made, is_over)
    except ValueError:
        pass
    finally:
        disk.close(fd)
    raise CorruptStoreError(f"{path} is damaged: give the files again with 'thincow overlay'")


def write_record(disk: Disk, data_dir: Path, record: OverlayRecord) -> None:
    """Replace what a data directory says, durably.

    Raises:
        OSError: when that cannot be done.
    """
    text = json.dumps(
        {
            "original": str(record.original),
            "virtual": str(record.virtual),
            "made_virtual": record.made_virtual,
        }
    )
    unfinished = data_dir / f"{RECORD_NAME}.new"
    fd = disk.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        disk.write(fd, f"{text}\n".encode(), 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(unfinished, data_dir / RECORD_NAME)
    disk.sync_directory(data_dir)
