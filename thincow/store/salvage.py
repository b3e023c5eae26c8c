"""Saves what can be read of a damaged `metadata.db` into a database with the schema of today.

Owns which rows belong to which table. Judges no values: the copy is checked and repaired like any
other database. Leaves that no tree
leads to are used only where a tree is broken, for extents, and never instead of a row that a tree
leads to: some are older versions of pages.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Final

import apsw

from thincow.store.columns import SQLValue
from thincow.store.connection import APPLICATION_ID, open_connection, transaction
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.migrations import create_schema
from thincow.store.page_reader import PageReader, Row
from thincow.store.sql_files import schema_version

# Table -> number of columns, the key first. The key of a row is its row id, but for globals.
_WIDTHS: Final = {
    "globals": 2,
    "devices": len(fields(DeviceRow)),
    "extents": 4,
    "flushing": 2,
    "cow": 3,
    "hashes": 3,
    "checksums": 5,
    "fingerprints": 2,
}
_BATCH_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was saved: rows by table.

    `map_is_whole`: nothing of `extents` and `flushing` is missing.
    """

    rows: dict[str, int]
    map_is_whole: bool


def salvage(disk: Disk, source: Path, target: Path) -> Salvaged:
    """Copy what can be read into a new database.

    Args:
        disk: the seam to read the damaged files through.
        source: the damaged database; its write-ahead log is read too.
        target: where to make the copy; must not exist.

    Raises:
        OSError: when the source cannot be read at all.
        CommitError, StoreFailedError: when the copy cannot be written.
    """
    reader = PageReader(disk, source)
    try:
        disk.close(disk.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        db = open_connection(target, vfs=disk.sqlite_vfs)
        try:
            # What cannot be right is found, said and dropped by the repair of the copy.
            db.execute("PRAGMA ignore_check_constraints = ON")
            with transaction(db):
                create_schema(db)
                return _copy(reader, db)
        finally:
            db.close()
    finally:
        reader.close()


def _copy(reader: PageReader, db: apsw.Connection) -> Salvaged:
    # All stores are made in one way, so their roots are the same; a schema that can be read says
    # it for sure.
    roots = _usual_roots() | reader.roots()
    counts = {}
    map_is_whole = True
    for table, width in _WIDTHS.items():
        reader.is_whole = True
        counts[table] = _insert(db, table, width, reader.rows(roots[table]))
        if table in ("extents", "flushing"):
            map_is_whole &= reader.is_whole
    if not map_is_whole:
        counts["extents"] += _insert(db, "extents", 4, _extents(reader.orphans()))
    return Salvaged(counts, map_is_whole)


def _usual_roots() -> dict[str, int]:
    db = apsw.Connection(":memory:")
    create_schema(db)
    rows = db.execute("SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'")
    return {str(name): int(str(root)) for name, root in rows}


def _extents(rows: Iterable[Row]) -> Iterator[Row]:
    """Choose those rows that can be nothing but extents."""
    for key, values in rows:
        match values:
            case [None, int(length), int(kind), int(target)] if (
                key > 0 and length > 0 and 0 <= kind <= 2 and target >= 0
            ):
                yield key, values


def _insert(db: apsw.Connection, table: str, width: int, rows: Iterable[Row]) -> int:
    """Insert rows of the right width; return how many."""
    statement = f"INSERT OR IGNORE INTO {table} VALUES ({','.join('?' * width)})"
    keyed = table != "globals"
    before = db.total_changes()
    shaped: Iterator[list[SQLValue]] = (
        [key, *values[1:]] if keyed else values for key, values in rows if len(values) >= width
    )
    trimmed = (values[:width] for values in shaped)
    while batch := list(islice(trimmed, _BATCH_ROWS)):
        try:
            with db:
                db.executemany(statement, batch)
        except apsw.ConstraintError:  # one of them has a value of a wrong type
            for values in batch:
                try:
                    db.execute(statement, values)
                except apsw.ConstraintError:
                    continue
    return db.total_changes() - before


def is_ours(disk: Disk, path: Path) -> bool:
    """Tell whether the header of a file, if it has one, says that it is a store of this version."""
    fd = disk.open(path, os.O_RDONLY)
    try:
        header = disk.read(fd, 100, 0)
    finally:
        disk.close(fd)
    if not header.startswith(b"SQLite format 3\0"):
        return True
    version, application = (int.from_bytes(header[at : at + 4]) for at in (60, 68))
    return application == APPLICATION_ID and version == schema_version()
