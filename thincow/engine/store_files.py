"""Finds a store's halves, tells whether they belong together, and makes new ones.

A new store appears in this order: `cowdata`, its label with generation 0, then `metadata.db` under
its name at once. So a label with generation 0 without metadata is a creation that was cut short.
"""

import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thincow.block_types import DEFAULT_BLOCK_SIZE
from thincow.engine.open_errors import no_room
from thincow.engine.options import StoreOptions
from thincow.errors import (
    ConfigurationError,
    CorruptStoreError,
    StoreInUseError,
    StoreMismatchError,
)
from thincow.store import database as database_file
from thincow.store.connection import Connection, DatabaseError
from thincow.store.cow_file import COW_NAME
from thincow.store.database import DATABASE_NAME, Database
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.label import LABEL_NAME, Label, LabelFile, read_label
from thincow.store.locks import DirectoryLock, lock_directories

_OPENING_BYTES: Final = 256 << 10
"""With less left, it is no wonder that SQLite cannot open a database."""

_LOG_SHARE_OF_FILESYSTEM: Final = 32
"""The write-ahead log is merged before it takes more than this part of a small filesystem."""


@dataclass(frozen=True, slots=True)
class StorePaths:
    """Where the halves are. `database` is None for metadata in memory."""

    data_dir: Path
    cowdata: Path
    database: Path | None

    @property
    def directories(self) -> list[Path]:
        """The directories of the store."""
        return [self.data_dir] + ([self.database.parent] if self.database is not None else [])


def paths_of(options: StoreOptions) -> StorePaths:
    """Return where a store's files are."""
    return StorePaths(
        options.data_dir,
        options.data_dir / COW_NAME,
        None if options.metadata_dir is None else options.metadata_dir / DATABASE_NAME,
    )


def store_exists(disk: Disk, paths: StorePaths) -> bool:
    """Tell whether there is a store (True), or room for a new one (False).

    Raises:
        StoreMismatchError: when there is only half of one.
        CorruptStoreError: when the label is damaged.
    """
    has_contents = paths.cowdata.exists() and paths.cowdata.stat().st_size > 0
    label = _find_label(disk, paths, has_contents)
    if paths.database is None:
        if has_contents or label is not None:
            raise StoreMismatchError(
                f"{paths.data_dir} holds contents of another store, which metadata in memory "
                f"cannot belong to: use another directory, or delete {COW_NAME} and {LABEL_NAME} "
                "there if nothing of it is needed"
            )
        return False
    if not paths.database.exists():
        if has_contents or (label is not None and label.generation > 0):
            raise StoreMismatchError(
                f"{paths.data_dir} holds contents, but {paths.database} is missing: "
                "give the --metadata-dir that belongs to it"
            )
        return False
    if label is None or not paths.cowdata.exists():
        raise StoreMismatchError(
            f"{paths.database} exists, but {paths.data_dir} does not hold its {COW_NAME} and "
            f"{LABEL_NAME}: give the --data-dir that belongs to it"
        )
    return True


def _find_label(disk: Disk, paths: StorePaths, has_contents: bool) -> Label | None:
    if not paths.data_dir.is_dir():
        return None
    try:
        return read_label(disk, paths.data_dir)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {paths.data_dir / LABEL_NAME}: {error.strerror}"
        ) from error
    except CorruptStoreError:
        # It may be part of a creation that was cut short, with nothing to lose.
        if has_contents or (paths.database is not None and paths.database.exists()):
            raise
        return None


def make_directories(
    disk: Disk, paths: StorePaths, present: list[Path], locks: list[DirectoryLock]
) -> None:
    """Make those directories of a new store that are not `present`, and lock them before use.

    Raises:
        ConfigurationError: when one cannot be made.
        StoreInUseError: when another process is making a store there.
    """
    for directory in paths.directories:
        try:
            directory.mkdir(exist_ok=True)
            # Also one that exists already may have been made by a process that was killed here.
            with suppress(PermissionError):
                disk.sync_directory(directory.parent)
        except OSError as error:
            raise ConfigurationError(f"cannot make {directory}: {error.strerror}") from error
    missing = [directory for directory in paths.directories if directory not in present]
    locks += lock_directories(missing, exclusive=True)
    if missing and store_exists(disk, paths):
        raise StoreInUseError(f"another process has just made a store in {paths.data_dir}")


def create_store(disk: Disk, paths: StorePaths, options: StoreOptions) -> Connection | None:
    """Make an empty store in its directories; they are locked.

    Returns:
        The connection when the metadata are in memory.

    Raises:
        ConfigurationError: when a file cannot be made.
    """
    facts = Globals(
        store_id=uuid.uuid4().hex,
        block_size=options.block_size or DEFAULT_BLOCK_SIZE,
        window_blocks=options.tuning.window_blocks,
        generation=0,
        clean=True,
        hash_entries=0,
        checksum_bits=options.checksum_bits or 0,
    )
    try:
        disk.close(disk.open(paths.cowdata, os.O_RDWR | os.O_CREAT))
        label = LabelFile(disk, paths.data_dir, facts.store_id, create=True)
        try:
            label.write(0)
            label.sync()
        finally:
            label.close()
        disk.sync_directory(paths.data_dir)
        return database_file.create(disk, paths.database, facts)
    except OSError as error:
        raise ConfigurationError(
            f"cannot create a store in {paths.data_dir}: {error.strerror}"
        ) from error


def remove_contents(paths: StorePaths) -> None:
    """Remove the contents of a store whose metadata were in memory and are gone."""
    for path in (paths.cowdata, paths.data_dir / LABEL_NAME):
        path.unlink(missing_ok=True)


def open_metadata(disk: Disk, paths: StorePaths, options: StoreOptions) -> Database:
    """Open the database of an existing store as the options want it.

    Raises:
        ConfigurationError: when there is no space for that.
        CorruptStoreError: when SQLite cannot open it.
    """
    assert paths.database is not None
    directory = paths.database.parent
    try:
        if options.read_only:
            return database_file.open_read_only(paths.database, options.temp_dir)
        return database_file.open_database(
            paths.database,
            checkpoint_bytes=min(
                options.tuning.checkpoint_wal_bytes,
                disk.filesystem_bytes(directory)[0] // _LOG_SHARE_OF_FILESYSTEM,
            ),
            temp_in_memory=options.temp_dir is None,
            vfs=disk.sqlite_vfs,
        )
    except (DatabaseError, OSError) as error:
        if not options.read_only and disk.filesystem_bytes(directory)[1] < _OPENING_BYTES:
            raise no_room(paths.data_dir) from error
        raise CorruptStoreError(
            f"{paths.database} cannot be opened ({error}): run 'thincow fsck'"
        ) from error


def require_halves_match(disk: Disk, paths: StorePaths, facts: Globals) -> None:
    """Check that `cowdata` belongs to the metadata.

    Raises:
        StoreMismatchError: when it belongs to others, or to newer ones.
    """
    label = read_label(disk, paths.data_dir)
    assert label is not None
    if label.store_id != facts.store_id:
        raise StoreMismatchError(
            f"{paths.database} and {paths.cowdata} belong to different stores: "
            "give the directories that belong together"
        )
    if label.generation > facts.generation:
        raise StoreMismatchError(
            f"{paths.database} is older (commit {facts.generation}) than {paths.cowdata} "
            f"(commit {label.generation}): use the newest metadata, with its -wal file"
        )
    if facts.clean and label.generation < facts.generation:
        raise StoreMismatchError(
            f"{paths.cowdata} is older (commit {label.generation}) than {paths.database} "
            f"(commit {facts.generation}): use the newest contents"
        )


def require_same_choices(options: StoreOptions, facts: Globals) -> None:
    """Check that the options do not contradict what the store was made with.

    Raises:
        StoreMismatchError: when the block size differs.
    """
    if options.block_size is not None and options.block_size != facts.block_size:
        raise StoreMismatchError(
            f"the store has blocks of {facts.block_size} bytes, not {options.block_size}: "
            "leave --block-size out, or use another directory"
        )
