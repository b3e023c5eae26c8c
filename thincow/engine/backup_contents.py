"""Copies the contents that a store refers to into the `cowdata` of a backup.

Where the filesystem can, the copy shares the space of the original; else contents are read and
written, and what nobody refers to stays, or becomes, a hole. Over an older copy only blocks that
differ are written.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from thincow.engine.free_runs import Run
from thincow.errors import CorruptStoreError, ThincowError
from thincow.store.cow_file import COW_NAME
from thincow.store.disk import Disk
from thincow.store.snapshot import Snapshot

_PIECE_BYTES: Final = 4 << 20
_CLONE_GRAIN_BYTES: Final = 4096
_CANNOT_CLONE: Final = {errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY, errno.ENOSYS}
_CANNOT_PUNCH: Final = {errno.EOPNOTSUPP, errno.ENOSYS}


@dataclass(slots=True)
class Amounts:
    """What became of the contents, in bytes."""

    total: int = 0
    shared: int = 0
    copied: int = 0
    unchanged: int = 0


def live_runs(snapshot: Snapshot) -> Iterator[Run]:
    """Yield the runs of COW blocks that are referred to, ascending, neighbours joined.

    Raises:
        CorruptStoreError: when the counts are damaged.
    """
    begin = end = 0
    for chunk in snapshot.cow():
        ends = chunk.first_block + chunk.length
        before = np.concatenate(([end], ends[:-1]))
        if (chunk.first_block < before).any() or (chunk.length < 1).any():
            raise CorruptStoreError("the counts are damaged: run 'thincow fsck'")
        heads = np.flatnonzero(chunk.first_block != before)
        lasts = before[heads].tolist()
        for first, last in zip(chunk.first_block[heads].tolist(), lasts, strict=True):
            if last > begin:
                yield begin, last - begin
            begin = first
        end = int(ends[-1])
    if end > begin:
        yield begin, end - begin


class ContentsCopy:
    """`cowdata` of a backup while it is written. Offsets and lengths in bytes.

    Raises (all methods):
        ThincowError: when one of the files cannot be used.
    """

    def __init__(self, disk: Disk, source_dir: Path, target_dir: Path, block_size: int) -> None:
        self._disk = disk
        self._block_size = block_size
        self.amounts = Amounts()
        self._can_clone = self._can_punch = True
        self._source_path, self._path = source_dir / COW_NAME, target_dir / COW_NAME
        self._source = self._open(self._source_path, os.O_RDONLY)
        try:
            self._target = self._open(self._path, os.O_RDWR | os.O_CREAT)
            # What a copy that failed left in memory may never have reached the disk.
            disk.forget_cached(self._target)
        except BaseException:
            disk.close(self._source)
            raise
        self._source_size = disk.size(self._source)
        self._old_size = disk.size(self._target)
        self._end = 0

    def close(self) -> None:
        """Close the files without syncing anything."""
        self._disk.close(self._source)
        self._disk.close(self._target)

    def take(self, offset: int, length: int) -> None:
        """Copy a range; ranges come in ascending order, and what is between them is a hole."""
        if offset + length > self._source_size:
            raise CorruptStoreError(
                f"{self._source_path} ends before byte {offset + length}: run 'thincow fsck'"
            )
        try:
            self._punch(self._end, offset)
            self._end = offset + length
            self.amounts.total += length
            if not self._clone(offset, length):
                for at in range(0, length, _PIECE_BYTES):
                    self._copy(offset + at, min(_PIECE_BYTES, length - at))
        except OSError as error:
            raise ThincowError(f"{self._path} cannot be written: {error.strerror}") from error

    def finish(self) -> None:
        """Cut the file to its length and make it durable."""
        try:
            self._disk.truncate(self._target, self._end)
            self._disk.sync(self._target)
        except OSError as error:
            raise ThincowError(f"{self._path} cannot be written: {error.strerror}") from error

    def _open(self, path: Path, flags: int) -> int:
        try:
            return self._disk.open(path, flags)
        except OSError as error:
            raise ThincowError(f"{path} cannot be opened: {error.strerror}") from error

    def _clone(self, offset: int, length: int) -> bool:
        if not self._can_clone:
            return False
        # What else is in the outer units is nobody's, or cloned with its own range.
        begin = offset - offset % _CLONE_GRAIN_BYTES
        end = min(
            -(-(offset + length) // _CLONE_GRAIN_BYTES) * _CLONE_GRAIN_BYTES, self._source_size
        )
        try:
            self._disk.clone(self._source, self._target, begin, end - begin)
        except OSError as error:
            # Reading and writing tells what is really wrong, if anything is (ZFS: EAGAIN).
            self._can_clone = error.errno not in _CANNOT_CLONE
            return False
        self.amounts.shared += length
        return True

    def _copy(self, offset: int, length: int) -> None:
        try:
            new = self._disk.read(self._source, length, offset)
        except OSError as error:
            raise ThincowError(
                f"{self._source_path} cannot be read from byte {offset}: {error.strerror}"
            ) from error
        if len(new) != length:
            raise CorruptStoreError(f"{self._source_path} has become shorter")
        if offset >= self._old_size:
            self._disk.write(self._target, new, offset)
            self.amounts.copied += length
            return
        old = self._disk.read(self._target, length, offset).ljust(length, b"\0")
        for start, size in self._different(old, new):
            self._disk.write(self._target, new[start : start + size], offset + start)
            self.amounts.copied += size
            length -= size
        self.amounts.unchanged += length

    def _different(self, old: bytes, new: bytes) -> list[Run]:
        if old == new:
            return []
        shape = (-1, self._block_size)
        rows = [np.frombuffer(data, np.uint8).reshape(shape) for data in (old, new)]
        differs = np.concatenate(([False], (rows[0] != rows[1]).any(axis=1), [False]))
        edges = np.flatnonzero(differs[1:] != differs[:-1]) * self._block_size
        return [(int(start), int(end - start)) for start, end in edges.reshape(-1, 2)]

    def _punch(self, begin: int, end: int) -> None:
        """Make a hole of what an older copy has there."""
        begin = -(-begin // _CLONE_GRAIN_BYTES) * _CLONE_GRAIN_BYTES
        end = min(end, self._old_size) // _CLONE_GRAIN_BYTES * _CLONE_GRAIN_BYTES
        if begin >= end or not self._can_punch:
            return
        try:
            self._disk.punch(self._target, begin, end - begin)
        except OSError as error:
            if error.errno not in _CANNOT_PUNCH:
                raise
            self._can_punch = False
