"""`cowdata.id`: the small text file that says which metadata `cowdata` belongs to.

Its generation is written after the commit of that number is durable and synced only when the
store is closed. So it may lag behind the metadata, and if it is ahead of them the metadata are
older than the contents: halves that do not belong together.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from thincow.errors import CorruptStoreError
from thincow.store.disk import Disk

LABEL_NAME = "cowdata.id"
_FORMAT = re.compile(rb"thincow ([0-9a-f]{32})\ngeneration (\d{20})\n")
_SIZE_BYTES = len("thincow ") + 32 + len("\ngeneration ") + 20 + 1


@dataclass(frozen=True, slots=True)
class Label:
    """What `cowdata.id` says."""

    store_id: str
    generation: int


def read_label(disk: Disk, data_dir: Path) -> Label | None:
    """Return the label of a data directory, None when it has none.

    Raises:
        CorruptStoreError: when the file is there but is no label.
    """
    path = data_dir / LABEL_NAME
    try:
        fd = disk.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        text = disk.read(fd, _SIZE_BYTES + 1, 0)
    finally:
        disk.close(fd)
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise CorruptStoreError(f"{path} is damaged: run 'thincow fsck' on the store")
    return Label(match[1].decode(), int(match[2]))


class LabelFile:
    """The label of an open store."""

    def __init__(self, disk: Disk, data_dir: Path, store_id: str) -> None:
        """Open the file, creating it when it is missing."""
        self._disk = disk
        self._store_id = store_id
        self._fd = disk.open(data_dir / LABEL_NAME, os.O_RDWR | os.O_CREAT)

    def write(self, generation: int) -> None:
        """Say that the commit `generation` is durable. One small write, not synced."""
        text = f"thincow {self._store_id}\ngeneration {generation:020d}\n"
        self._disk.write(self._fd, text.encode(), 0)

    def sync(self) -> None:
        """Make the label durable."""
        self._disk.sync(self._fd)

    def close(self) -> None:
        """Close the file."""
        self._disk.close(self._fd)
