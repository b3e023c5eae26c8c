"""Makes a new `metadata.db` beside a damaged one, and puts it in its place.

A repair writes a whole new file, not into the old one: so it gets a sound structure and the shipped
schema whatever was damaged, and a repair that is cut short leaves the old file as it was. What was
there is copied aside first. Nothing of the store may be open.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw
import numpy as np

from thincow.store import database, devices_table, globals_table
from thincow.store.bulk import insert_rows
from thincow.store.columns import (
    ChecksumRow,
    CowColumns,
    ExtentColumns,
    FingerprintColumns,
    FlushingColumns,
    HashColumns,
    IntColumn,
)
from thincow.store.connection import checkpoint, open_connection, transaction
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals

_COPY_BYTES: Final = 1 << 20
_BESIDE: Final = ("-wal", "-shm", "-journal")


class Rebuild:
    """The new database while it is being filled, in one transaction."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    def add_devices(self, rows: list[DeviceRow]) -> None:
        """Add devices."""
        devices_table.store(self._db, rows)

    def add_extents(self, rows: ExtentColumns) -> None:
        """Add extents."""
        self._add("INSERT INTO extents(first_block, length, kind, target) VALUES ", rows)

    def add_counts(self, rows: CowColumns) -> None:
        """Add counts."""
        self._add("INSERT INTO cow(first_block, length, refs) VALUES ", rows)

    def add_hashes(self, rows: HashColumns) -> None:
        """Add hash entries."""
        self._add("INSERT INTO hashes(hash, kind, target) VALUES ", rows)

    def add_fingerprints(self, rows: FingerprintColumns) -> None:
        """Add fingerprints."""
        self._add("INSERT INTO fingerprints(block, hash) VALUES ", rows)

    def add_flushing(self, rows: FlushingColumns) -> None:
        """Add ranges of upstream whose contents are unknown."""
        self._add("INSERT INTO flushing(first_block, length) VALUES ", rows)

    def add_checksums(self, row: ChecksumRow) -> None:
        """Add one row of checksums."""
        self._db.execute(
            "INSERT INTO checksums(first_block, length, bits, present, sums) "
            "VALUES (?, ?, ?, ?, ?)",
            row,
        )

    def set_hash_entries(self, number: int) -> None:
        """Record the number of hash entries."""
        globals_table.store(self._db, {"hash_entries": number, globals_table.ENTRIES_LOST: 1})

    def _add(self, head: str, columns: tuple[IntColumn, ...]) -> None:
        insert_rows(self._db, head, np.column_stack(columns).ravel().tolist(), len(columns))


@contextmanager
def rebuilding(disk: Disk, path: Path, facts: Globals) -> Iterator[Rebuild]:
    """Make the new database at `path`; it is complete when the body ends without an error.

    Raises:
        CommitError, StoreFailedError: when it cannot be written.
    """
    remove(disk, path)
    database.create(disk, path, facts)
    try:
        db = open_connection(path, vfs=disk.sqlite_vfs)
        try:
            with transaction(db):
                yield Rebuild(db)
        finally:
            db.close()
    except BaseException:
        remove(disk, path)
        raise


def keep_aside(disk: Disk, files: list[Path]) -> list[Path]:
    """Copy those files that exist to new names beside them, durably; return the new names.

    The copy of a database and that of its write-ahead log are named as a pair.

    Raises:
        OSError: when that cannot be done.
    """
    number = 0
    while any(_aside(path, number).exists() for path in files):
        number += 1
    kept = []
    for path in files:
        if path.exists():
            _copy(disk, path, _aside(path, number))
            kept.append(_aside(path, number))
    for directory in {path.parent for path in kept}:
        disk.sync_directory(directory)
    return kept


def put_in_place(disk: Disk, new: Path, path: Path) -> None:
    """Replace a database, of which a copy was kept, and its write-ahead log by a new one.

    Raises:
        OSError: when that cannot be done.
    """
    # Between the removal of the log and the renaming the old file must not lack what is in it.
    with suppress(apsw.Error):
        db = open_connection(path, vfs=disk.sqlite_vfs)
        try:
            checkpoint(db, truncate=True)
        finally:
            db.close()
    for suffix in _BESIDE:
        _unlink(disk, path.with_name(path.name + suffix))
    disk.sync_directory(path.parent)
    disk.rename(new, path)
    disk.sync_directory(path.parent)


def remove(disk: Disk, path: Path) -> None:
    """Remove a database that is no longer needed."""
    for suffix in ("", *_BESIDE):
        _unlink(disk, path.with_name(path.name + suffix))


def _aside(path: Path, number: int) -> Path:
    end = "-wal" if path.name.endswith("-wal") else ""
    name = path.name.removesuffix("-wal")
    return path.with_name(f"{name}.before-repair{f'-{number}' if number else ''}{end}")


def _copy(disk: Disk, source: Path, target: Path) -> None:
    source_fd = disk.open(source, os.O_RDONLY)
    try:
        target_fd = disk.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            at = 0
            while data := disk.read(source_fd, _COPY_BYTES, at):
                disk.write(target_fd, data, at)
                at += len(data)
            disk.sync(target_fd)
        finally:
            disk.close(target_fd)
    finally:
        disk.close(source_fd)


def _unlink(disk: Disk, path: Path) -> None:
    with suppress(FileNotFoundError):
        disk.unlink(path)
