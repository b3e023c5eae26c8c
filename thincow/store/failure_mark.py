"""`check-needed`: says that a sync of the store failed, so that the next open checks it first.

After a failed sync the page cache may hold contents that the disk never got, marked clean. So the
cached pages are dropped before anything is looked at.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from thincow.store.disk import Disk

MARK_NAME: Final = "check-needed"


def write_mark(disk: Disk, data_dir: Path, reason: str) -> None:
    """Leave the mark, durably.

    Raises:
        OSError: when that cannot be done; the mark may be there nevertheless.
    """
    fd = disk.open(data_dir / MARK_NAME, os.O_WRONLY | os.O_CREAT)
    try:
        disk.write(fd, f"{reason}\n".encode(), 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.sync_directory(data_dir)


def has_mark(data_dir: Path) -> bool:
    """Tell whether the mark is there."""
    return (data_dir / MARK_NAME).exists()


def remove_mark(disk: Disk, data_dir: Path) -> None:
    """Remove the mark, durably: the store was checked."""
    disk.unlink(data_dir / MARK_NAME)
    disk.sync_directory(data_dir)


def drop_cached_pages(disk: Disk, files: Iterable[Path]) -> None:
    """Make later reads of files see what is on the disk. No database may be open.

    Raises:
        OSError: when a file cannot be opened.
    """
    for path in files:
        if path.exists():
            fd = disk.open(path, os.O_RDONLY)
            try:
                disk.forget_cached(fd)
            finally:
                disk.close(fd)
