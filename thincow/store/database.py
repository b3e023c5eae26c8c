"""`metadata.db` as a whole: create, open, commit, copy. The tables have modules of their own."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

import apsw

from thincow.errors import CommitError, StoreFailedError
from thincow.store import globals_table, log_index
from thincow.store.bulk import fetch_rows
from thincow.store.connection import (
    checkpoint,
    close_without_checkpoint,
    commit_error,
    copy_to_memory,
    limit_log,
    open_connection,
    page_size,
    transaction,
)
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.log_index import LogIndex
from thincow.store.migrations import create_schema

DATABASE_NAME: Final = "metadata.db"
_NEW_SUFFIX: Final = ".new"

_log = logging.getLogger(__name__)

SchemaRow = tuple[str, str, str, str | None]


class Database:
    """The connections of an open store.

    `writer` belongs to whoever commits, `reader` to the thread that serves requests. They are the
    same connection for a database in memory, where commits run in that thread too, and for a
    read-only store.
    """

    def __init__(
        self,
        writer: apsw.Connection,
        reader: apsw.Connection,
        path: Path | None,
        checkpoint_bytes: int = 0,
        vfs: str | None = None,
    ) -> None:
        """Own two open connections to the database at `path` (None: in memory, or a copy).

        The write-ahead log is merged when it holds more than `checkpoint_bytes`.
        """
        self.writer = writer
        self.reader = reader
        self.path = path
        self._vfs = vfs
        self._log_pages = 0
        self._checkpoint_pages = 0
        self._is_merge_put_off = False
        self._index: LogIndex | None = None
        if writer is not reader:
            assert path is not None
            self._index = LogIndex(path)
            self._checkpoint_pages = checkpoint_bytes // page_size(writer)
            limit_log(writer, checkpoint_bytes)
            writer.set_wal_hook(self._note_log_size)

    @property
    def commits_may_run_in_thread(self) -> bool:
        """Whether reading goes on while a commit runs elsewhere."""
        return self.writer is not self.reader

    def open_snapshot(self) -> apsw.Connection:
        """Open one more connection for reading, for use in any one thread (in memory: a copy).

        Raises:
            StoreFailedError: when it cannot be opened.
        """
        if self.path is None:
            return copy_to_memory(self.reader)
        immutable = self.writer is self.reader
        try:
            return open_connection(self.path, read_only=True, immutable=immutable, vfs=self._vfs)
        except apsw.Error as error:
            raise StoreFailedError(f"metadata.db cannot be read: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the body in one transaction of `writer`: all of it becomes durable, or nothing.

        Raises:
            CommitError, StoreFailedError: as `connection.transaction` does.
        """
        self._secure_index()
        with transaction(self.writer):
            yield

    def catch_up(self) -> None:
        """Let `reader` note in the log's index that it reads the last commit.

        At once: to note it later, when the disk is full, might kill the process (see `log_index`).
        """
        if self.reader is not self.writer:
            with suppress(apsw.Error):
                self.reader.execute("SELECT 1 FROM globals LIMIT 1").fetchall()

    def use_log(self) -> None:
        """Make sure that commits go through a write-ahead log, as they do in a new store.

        Raises:
            CommitError, StoreFailedError: when the database cannot be written.
        """
        try:
            self.writer.pragma("journal_mode", "WAL")
        except apsw.Error as error:
            raise commit_error(error) from error

    def checkpoint_if_due(self, *, soon: bool = False, whole: bool = False) -> None:
        """Merge a long write-ahead log, or with `soon` any; a full disk only puts it off.

        By whoever commits. `whole`: any, and empty it, unless a reader still needs it.

        Raises:
            StoreFailedError: when a sync failed.
        """
        if not whole and self._log_pages <= (0 if soon else self._checkpoint_pages):
            return
        try:
            self._secure_index()
            checkpoint(self.writer, truncate=whole)
            self._log_pages = 0
            self._is_merge_put_off = False
        except CommitError as error:
            if not self._is_merge_put_off:
                _log.warning("the write-ahead log cannot be merged now: %s", error)
            self._is_merge_put_off = True

    def _secure_index(self) -> None:
        if self._index is not None:
            self._index.secure(self._log_pages)

    def _note_log_size(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def close(self, *, keep_log: bool = False) -> None:
        """Close all; unless `keep_log`, the write-ahead log is merged and removed if it can be."""
        if not keep_log:
            try:
                self._secure_index()
            except CommitError as error:
                _log.warning("the write-ahead log stays to be merged at the next open: %s", error)
                keep_log = True
        if self.reader is not self.writer:
            close_without_checkpoint(self.reader)
        if keep_log:
            close_without_checkpoint(self.writer)
        else:
            self.writer.close()
        if self.path is not None and self._index is not None:
            log_index.discard_unused(self.path)


def create(disk: Disk, path: Path | None, facts: Globals) -> apsw.Connection | None:
    """Make a database with the schema of today.

    A file appears under its name only when it is complete and durable.

    Args:
        disk: for what SQLite does not do itself, and its VFS.
        path: where; None makes one in memory and returns its connection.
        facts: the first contents of the table `globals`.

    Raises:
        CommitError, StoreFailedError: when the file cannot be written.
    """
    if path is None:
        db = open_connection(None)
        _fill(db, facts)
        return db
    unfinished = path.with_name(path.name + _NEW_SUFFIX)
    for leftover in (unfinished, unfinished.with_name(unfinished.name + "-journal")):
        if leftover.exists():
            disk.unlink(leftover)
    disk.close(disk.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    db = open_connection(unfinished, create=True, vfs=disk.sqlite_vfs)
    try:
        _fill(db, facts)
        log_index.prepare(unfinished)
        db.pragma("journal_mode", "WAL")
    finally:
        db.close()
        log_index.discard_unused(unfinished)
    disk.rename(unfinished, path)
    disk.sync_directory(path.parent)
    return None


def open_database(
    path: Path,
    *,
    checkpoint_bytes: int = 64 << 20,
    temp_in_memory: bool = True,
    vfs: str | None = None,
) -> Database:
    """Open an existing database for reading and writing.

    `checkpoint_bytes`: see `Database`.

    Raises:
        apsw.Error: when SQLite cannot.
    """
    log_index.prepare(path)
    try:
        writer = open_connection(path, temp_in_memory=temp_in_memory, vfs=vfs)
        try:
            reader = open_connection(path, read_only=True, temp_in_memory=temp_in_memory, vfs=vfs)
        except apsw.Error:
            writer.close()
            raise
    except apsw.Error:
        log_index.discard_unused(path)
        raise
    return Database(writer, reader, path, checkpoint_bytes, vfs)


def open_read_only(path: Path, temp_dir: Path | None = None) -> Database:
    """Open a database without writing anything beside it.

    With an unmerged write-ahead log a private copy of both is read; it has no name, and goes with
    the connection.

    Raises:
        apsw.Error: when SQLite cannot read it.
        OSError: when a file cannot be copied.
    """
    log = path.with_name(path.name + "-wal")
    if not log.exists() or log.stat().st_size == 0:
        db = open_connection(path, read_only=True, immutable=True)
        return Database(db, db, path)
    with tempfile.TemporaryDirectory(prefix="thincow-", dir=temp_dir or _memory_dir()) as copy_dir:
        copy = Path(copy_dir) / path.name
        shutil.copyfile(path, copy)
        shutil.copyfile(log, copy.with_name(log.name))
        merged = open_connection(copy)
        try:
            merged.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            checkpoint(merged, truncate=True)
            # Leave WAL mode, so that the copy needs no other file when its directory is gone.
            merged.pragma("journal_mode", "DELETE")
        finally:
            merged.close()
        db = open_connection(copy, read_only=True, immutable=True)
        db.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    return Database(db, db, path=None)


def schema_of(db: apsw.Connection) -> list[SchemaRow]:
    """Return everything a database's schema defines, sorted."""
    rows = fetch_rows(db, "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name")
    return [(kind, name, table, sql) for kind, name, table, sql in rows]


@cache
def expected_schema() -> list[SchemaRow]:
    """Return what `schema_of` gives for a store made by this program."""
    db = apsw.Connection(":memory:")
    create_schema(db)
    return schema_of(db)


def _fill(db: apsw.Connection, facts: Globals) -> None:
    with transaction(db):
        create_schema(db)
        globals_table.store(
            db,
            {
                "store_id": facts.store_id,
                "block_size": facts.block_size,
                "window_blocks": facts.window_blocks,
                "generation": facts.generation,
                "clean": int(facts.clean),
                "hash_entries": facts.hash_entries,
                "checksum_bits": facts.checksum_bits,
            },
        )


def _memory_dir() -> Path | None:
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else None
