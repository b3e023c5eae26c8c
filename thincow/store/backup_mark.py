"""`backup-incomplete`: says that a directory holds a copy of a store that is being made.

It is made durable before anything else of the copy is written, and goes when all of it is durable.
"""

import os
from pathlib import Path
from typing import Final

from thincow.errors import ConfigurationError
from thincow.store.disk import Disk

BACKUP_MARK_NAME: Final = "backup-incomplete"
_MAX_BYTES: Final = 64


def write_backup_mark(disk: Disk, directory: Path, store_id: str) -> None:
    """Mark a directory as a copy of a store that is not complete.

    Raises:
        OSError: when that cannot be done; the mark may be there nevertheless.
    """
    fd = disk.open(directory / BACKUP_MARK_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        disk.write(fd, f"{store_id}\n".encode(), 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.sync_directory(directory)


def remove_backup_mark(disk: Disk, directory: Path) -> None:
    """Declare a copy complete: everything in the directory is durable."""
    disk.sync_directory(directory)
    disk.unlink(directory / BACKUP_MARK_NAME)
    disk.sync_directory(directory)


def read_backup_mark(disk: Disk, directory: Path) -> str | None:
    """Return of which store a directory holds an incomplete copy, None when it has no mark.

    Raises:
        OSError: when it cannot be read.
    """
    try:
        fd = disk.open(directory / BACKUP_MARK_NAME, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return disk.read(fd, _MAX_BYTES, 0).decode(errors="replace").strip()
    finally:
        disk.close(fd)


def refuse_unfinished(directory: Path) -> None:
    """Check that a directory holds no copy that was not completed.

    Raises:
        ConfigurationError: when it does.
    """
    if (directory / BACKUP_MARK_NAME).exists():
        raise ConfigurationError(
            f"{directory} is a backup that was not completed: complete it with 'thincow backup "
            "--incremental', or delete it"
        )
