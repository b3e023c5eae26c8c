"""Connections to `metadata.db`, and the one place that begins and ends transactions.

While a connection is open nothing else in the process may open or close the database's files: to
close any descriptor of them drops the process's POSIX locks. One connection writes and
checkpoints; others only read. A connection is used by one thread at a time.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import apsw

from thincow.errors import (
    CommitError,
    ConfigurationError,
    DatabaseBusyError,
    StoreFailedError,
)

Connection = apsw.Connection
DatabaseError = apsw.Error
"""What the layers above may name of apsw."""

APPLICATION_ID: Final = 0x7468436F  # "thCo"
_FIRST_FIXED_SQLITE: Final = [3, 51, 3]
_BUSY_TIMEOUT_MS: Final = 2000
_CACHE_KIB: Final = 32 * 1024

# After these the database is as it was before the transaction. Anything else (a failed sync, a
# failed shared-memory operation) leaves open what is durable.
_RETRYABLE: Final = {apsw.SQLITE_FULL, apsw.SQLITE_IOERR_WRITE}


def require_fixed_sqlite() -> None:
    """Refuse SQLite libraries that can corrupt a WAL database used by several connections.

    Raises:
        ConfigurationError: when the library is older than 3.51.3.
    """
    version = [int(part) for part in apsw.sqlite_lib_version().split(".")]
    if version < _FIRST_FIXED_SQLITE:
        raise ConfigurationError(
            f"SQLite {apsw.sqlite_lib_version()} has a bug that can corrupt the store: "
            "install apsw 3.51.3 or newer"
        )


def set_temp_dir(path: Path | None) -> None:
    """Let SQLite put large temporary data into a directory (None: keep it in memory)."""
    if path is not None:
        os.environ["SQLITE_TMPDIR"] = str(path)


def open_connection(
    path: Path | None,
    *,
    create: bool = False,
    read_only: bool = False,
    immutable: bool = False,
    temp_in_memory: bool = True,
    vfs: str | None = None,
) -> apsw.Connection:
    """Open a connection that trusts nothing in the file.

    Args:
        path: the database; None for one in memory.
        create: make the file when it is missing.
        read_only: refuse every change through this connection.
        immutable: the file cannot change and has no write-ahead log (nothing is locked or made).
        temp_in_memory: keep sorters and temporary tables in memory.
        vfs: SQLite VFS to use instead of the system's.

    Raises:
        apsw.Error: when SQLite cannot open the file.
    """
    if path is None:
        db = apsw.Connection(":memory:")
    else:
        flags = apsw.SQLITE_OPEN_READONLY if immutable else apsw.SQLITE_OPEN_READWRITE
        if create:
            flags |= apsw.SQLITE_OPEN_CREATE
        uri = f"{path.absolute().as_uri()}?immutable=1" if immutable else str(path)
        if immutable:
            flags |= apsw.SQLITE_OPEN_URI
        db = apsw.Connection(uri, flags=flags, vfs=vfs)
    try:
        db.set_busy_timeout(_BUSY_TIMEOUT_MS)
        db.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        db.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        _pragma(db, "cell_size_check", "ON")
        _pragma(db, "mmap_size", "0")
        _pragma(db, "cache_size", str(-_CACHE_KIB))
        _pragma(db, "temp_store", "MEMORY" if temp_in_memory else "FILE")
        if read_only:
            _pragma(db, "query_only", "ON")
            # Nor may it merge the log should it be the last one to close: a sync may have failed.
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        else:
            _pragma(db, "synchronous", "FULL")
            _pragma(db, "wal_autocheckpoint", "0")
    except apsw.Error:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: apsw.Connection) -> Iterator[None]:
    """Run the body in one immediate transaction: all of it becomes durable, or nothing.

    Raises:
        StoreFailedError: when a sync failed; no later success proves anything.
        CommitError: when the database is full, busy or cannot be written; it may be tried again.
    """
    try:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            # SQLite has ended the transaction itself after some errors.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    except apsw.Error as error:
        raise commit_error(error) from error


def set_patience(db: apsw.Connection, *, patient: bool) -> None:
    """Choose whether to wait for somebody else's write transaction, or to fail at once."""
    db.set_busy_timeout(_BUSY_TIMEOUT_MS if patient else 0)


def commit_error(error: apsw.Error) -> CommitError | StoreFailedError:
    """Translate an error of SQLite while it writes or syncs."""
    text = f"metadata.db: {error}"
    code = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
    if isinstance(error, apsw.BusyError):
        return DatabaseBusyError(text, errno.ENOSPC)
    if code not in _RETRYABLE:
        return StoreFailedError(text)
    return CommitError(text, errno.EIO if code == apsw.SQLITE_IOERR_WRITE else errno.ENOSPC)


def checkpoint(db: apsw.Connection, *, truncate: bool = False) -> None:
    """Copy the write-ahead log into the database, as far as readers allow.

    Raises:
        StoreFailedError: when a sync failed.
        CommitError: when the database cannot be written now.
    """
    mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
    try:
        db.wal_checkpoint(mode=mode)
    except apsw.BusyError:
        return  # a reader holds an old snapshot: the log keeps its frames until it goes
    except apsw.Error as error:
        raise commit_error(error) from error


def close_without_checkpoint(db: apsw.Connection) -> None:
    """Close, leaving the write-ahead log as it is."""
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    db.close()


def limit_size(db: apsw.Connection, max_bytes: int | None) -> None:
    """Let the database grow to at most `max_bytes`; past that writes fail as on a full disk."""
    if max_bytes is not None:
        _pragma(db, "max_page_count", str(max(1, max_bytes // page_size(db))))


def limit_log(db: apsw.Connection, max_bytes: int) -> None:
    """Cut the write-ahead log to `max_bytes` when it begins anew after a merge."""
    _pragma(db, "journal_size_limit", str(max_bytes))


def copy_to_memory(source: apsw.Connection) -> apsw.Connection:
    """Return a copy in memory of a whole database."""
    target = open_connection(None)
    with target.backup("main", source, "main") as backup:
        backup.step(-1)
    return target


def page_size(db: apsw.Connection) -> int:
    """Return the size of a page of the database, in bytes."""
    size = db.pragma("page_size")
    assert isinstance(size, int)
    return size


def _pragma(db: apsw.Connection, name: str, value: str) -> None:
    db.execute(f"PRAGMA {name} = {value}").fetchall()
