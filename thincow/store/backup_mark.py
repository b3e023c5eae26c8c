"""`backup-incomplete` and `backup-complete`: tell that a directory holds a copy of a store.

The first is made durable before anything else of the copy is written. When all of it is durable it
becomes the second, which says that the directory may be overwritten by a later copy. Each names the
store, and the commit that was copied: a copy that is at another one has changes of its own.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thincow.errors import ConfigurationError
from thincow.store.disk import Disk

INCOMPLETE_NAME: Final = "backup-incomplete"
COMPLETE_NAME: Final = "backup-complete"
_MAX_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class BackupMark:
    """What a mark says: the store, and the number of its commit (None where it does not tell)."""

    store_id: str
    generation: int | None
    is_complete: bool


def begin_backup(disk: Disk, directory: Path, store_id: str, generation: int) -> None:
    """Mark a directory as an incomplete copy of a commit of a store.

    Raises:
        OSError: when that cannot be done; the mark may be there nevertheless.
    """
    fd = disk.open(directory / INCOMPLETE_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        disk.write(fd, f"{store_id} {generation}\n".encode(), 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.sync_directory(directory)
    with suppress(FileNotFoundError):
        disk.unlink(directory / COMPLETE_NAME)


def complete_backup(disk: Disk, directory: Path) -> None:
    """Declare a copy complete. The contents of its files must be durable."""
    disk.sync_directory(directory)
    disk.rename(directory / INCOMPLETE_NAME, directory / COMPLETE_NAME)
    disk.sync_directory(directory)


def read_mark(disk: Disk, directory: Path) -> BackupMark | None:
    """Return what a directory holds a copy of, complete or not; None when it has no mark.

    Raises:
        OSError: when it cannot be read.
    """
    for name in (INCOMPLETE_NAME, COMPLETE_NAME):
        try:
            fd = disk.open(directory / name, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            words = disk.read(fd, _MAX_BYTES, 0).decode(errors="replace").split()
        finally:
            disk.close(fd)
        store_id, number = (*words, "", "")[:2]
        generation = int(number) if number.isdecimal() else None
        return BackupMark(store_id, generation, name == COMPLETE_NAME)
    return None


def refuse_incomplete(directory: Path) -> None:
    """Check that a directory does not hold an incomplete copy.

    Raises:
        ConfigurationError: when it does.
    """
    if (directory / INCOMPLETE_NAME).exists():
        raise ConfigurationError(
            f"{directory} is a backup that was not completed: complete it with 'thincow backup "
            "--incremental', or delete it"
        )
