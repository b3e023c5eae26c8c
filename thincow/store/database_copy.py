"""Copies of `metadata.db`, through SQLite's backup interface, never by hand.

The source may be a database that others write to: the connection's read transaction is what is
copied, however long it takes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from thincow.errors import ThincowError
from thincow.store import globals_table, log_index
from thincow.store.connection import open_connection, transaction
from thincow.store.database import DATABASE_NAME
from thincow.store.disk import Disk

_PAGES_A_STEP: Final = 4096


def copy_pages(
    source: apsw.Connection, path: Path, vfs: str | None, advance: Callable[[float], None]
) -> None:
    """Write the whole of a database, as a connection sees it, to an empty file, durably.

    Args:
        source: in a read transaction.
        path: of the file, which is empty or does not exist.
        vfs: SQLite VFS to write through instead of the system's.
        advance: told which part is done, from 0 to 1.

    Raises:
        ThincowError: when it cannot be read or written.
    """
    try:
        target = open_connection(path, create=True, vfs=vfs)
        try:
            with target.backup("main", source, "main") as backup:
                while not backup.done:
                    backup.step(_PAGES_A_STEP)
                    total = max(1, backup.page_count)
                    advance(1 - backup.remaining / total)
        finally:
            target.close()
    except apsw.Error as error:
        raise ThincowError(f"{DATABASE_NAME} cannot be copied to {path}: {error}") from error


def seal_copy(disk: Disk, path: Path) -> None:
    """Say in a copy that it was closed properly, durably.

    Raises:
        CommitError, StoreFailedError: when it cannot be written.
    """
    log_index.prepare(path)
    try:
        db = open_connection(path, vfs=disk.sqlite_vfs)
        try:
            with transaction(db):
                globals_table.store(db, {"clean": 1})
        finally:
            db.close()
    except apsw.Error as error:
        raise ThincowError(f"{path} cannot be completed: {error}") from error
    finally:
        log_index.discard_unused(path)


def database_files(path: Path) -> list[Path]:
    """Return the files that a database may consist of."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
