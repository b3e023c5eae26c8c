"""`cowdata.id`: the small text file that says which metadata `cowdata` belongs to.

Its generation is written after the commit of that number is durable and synced only when the
store is closed. So it may lag behind the metadata, and if it is ahead of them the metadata are
older than the contents: halves that do not belong together.

The text stands in one of two slots, each in a disk sector of its own. A slot whose text is durable
is kept while the other one is written: a power cut may leave anything of a sector on its way.
"""

import errno
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from thincow.errors import CorruptStoreError
from thincow.store.disk import Disk

_log = logging.getLogger(__name__)

LABEL_NAME = "cowdata.id"
_FORMAT = re.compile(rb"thincow ([0-9a-f]{32})\ngeneration (\d{20})\n")
_SIZE_BYTES = len("thincow ") + 32 + len("\ngeneration ") + 20 + 1
_SLOT_BYTES = 4096
_LAST_GENERATION = 1 << 62
_SLOTS = 2


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
        labels = _read_slots(disk, fd)
    finally:
        disk.close(fd)
    found = [label for label in labels if label is not None]
    if not found:
        raise CorruptStoreError(f"{path} is damaged: run 'thincow fsck' on the store")
    return max(found, key=lambda label: label.generation)


def _read_slots(disk: Disk, fd: int) -> list[Label | None]:
    labels = []
    for slot in range(_SLOTS):
        match = _FORMAT.fullmatch(disk.read(fd, _SIZE_BYTES, slot * _SLOT_BYTES))
        label = None if match is None else Label(match[1].decode(), int(match[2]))
        labels.append(label if label is None or label.generation <= _LAST_GENERATION else None)
    return labels


class LabelFile:
    """The label of an open store."""

    def __init__(self, disk: Disk, data_dir: Path, store_id: str, *, create: bool = False) -> None:
        """Open the file; `create` makes it, or empties what is left of another creation."""
        self._disk = disk
        self._store_id = store_id
        self._slot = 0
        self._is_behind = False
        self._fd = disk.open(data_dir / LABEL_NAME, os.O_RDWR | (os.O_CREAT if create else 0))
        try:
            if create:
                disk.truncate(self._fd, 0)
            else:
                self._choose_slot()
        except BaseException:
            disk.close(self._fd)
            raise

    def _choose_slot(self) -> None:
        # What a killed process wrote may be in the page cache only.
        self._disk.sync(self._fd)
        labels = _read_slots(self._disk, self._fd)
        generations = [-1 if label is None else label.generation for label in labels]
        self._slot = generations.index(min(generations))

    def write(self, generation: int) -> None:
        """Say that the commit `generation` is durable. One small write, not synced."""
        text = f"thincow {self._store_id}\ngeneration {generation:020d}\n"
        self._disk.write(self._fd, text.encode(), self._slot * _SLOT_BYTES)

    def write_if_room(self, generation: int) -> None:
        """Write the label, or let it lag behind while the disk is full."""
        try:
            self.write(generation)
            self._is_behind = False
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            if not self._is_behind:
                _log.warning("%s: %s", LABEL_NAME, error.strerror)
            self._is_behind = True

    def sync(self) -> None:
        """Make the label durable."""
        self._disk.sync(self._fd)
        self._slot = (self._slot + 1) % _SLOTS

    def close(self) -> None:
        """Close the file."""
        self._disk.close(self._fd)
