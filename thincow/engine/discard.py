"""Removes a store: its own files only, and its directories when nothing else is in them.

That of an overlay is noted as being removed first, so that a removal that was cut can go on.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from thincow.engine.fsck import require_directories
from thincow.errors import ConfigurationError, NoStoreError, ThincowError
from thincow.store.backup_mark import COMPLETE_NAME, INCOMPLETE_NAME
from thincow.store.cow_file import COW_NAME
from thincow.store.database import DATABASE_NAME
from thincow.store.disk import Disk
from thincow.store.failure_mark import MARK_NAME
from thincow.store.label import LABEL_NAME
from thincow.store.locks import lock_directories
from thincow.store.overlay_record import OVER_NAME, RECORD_NAME, note_over, read_record
from thincow.store.snapshot import Snapshot
from thincow.store.space_reserve import RESERVE_NAME

_DATA_FILES: Final = (
    COW_NAME,
    LABEL_NAME,
    MARK_NAME,
    COMPLETE_NAME,
    INCOMPLETE_NAME,
    f"{RECORD_NAME}.new",
)
_RECORDS: Final = (RECORD_NAME, OVER_NAME)
_METADATA_FILE: Final = re.compile(
    rf"{re.escape(DATABASE_NAME)}(-wal|-shm|\.v\d+|\.before-repair.*)?|{RESERVE_NAME}"
)


def discard_store(
    data_dir: Path,
    metadata_dir: Path,
    *,
    only_clean: bool = False,
    before_the_end: Callable[[], None] = lambda: None,
) -> None:
    """Remove a store that nobody uses, or what is left of one that was being removed.

    Args:
        data_dir: directory of `cowdata`.
        metadata_dir: directory of `metadata.db`.
        only_clean: remove it only when all that is in it is upstream.
        before_the_end: called before the record of an overlay is removed, the last file of all.

    Raises:
        NoStoreError: when there is none.
        StoreInUseError: when somebody uses it; names the pid.
        ThincowError: when it is not clean, or cannot be removed.
    """
    require_directories(data_dir, metadata_dir)
    locks = lock_directories([data_dir, metadata_dir], exclusive=True)
    try:
        disk = Disk()
        record = read_record(disk, data_dir)
        is_over = record is not None and record.is_over
        if not is_over:
            _require_store(data_dir, metadata_dir, only_clean=only_clean)
        try:
            if record is not None and not is_over:
                note_over(disk, data_dir)
            _remove(disk, data_dir, metadata_dir, before_the_end)
        except OSError as error:
            raise ThincowError(f"{data_dir} cannot be removed: {error.strerror}") from error
    finally:
        for lock in locks:
            lock.release()


def _require_store(data_dir: Path, metadata_dir: Path, *, only_clean: bool) -> None:
    database = metadata_dir / DATABASE_NAME
    if not database.is_file() or not (data_dir / COW_NAME).is_file():
        raise NoStoreError(f"there is no store in {data_dir}")
    if only_clean:
        _require_clean(database)


def _require_clean(database: Path) -> None:
    with Snapshot.open_offline(database) as snapshot:
        is_clean = (
            next(snapshot.extents(), None) is None
            and next(snapshot.flushing(), None) is None
            and not any(row.needs_resize for row in snapshot.devices())
        )
    if not is_clean:
        raise ThincowError(f"{database.parent} holds changes that are not upstream: it is kept")


def _remove(
    disk: Disk, data_dir: Path, metadata_dir: Path, before_the_end: Callable[[], None]
) -> None:
    for path in sorted(metadata_dir.iterdir()):
        if _METADATA_FILE.fullmatch(path.name):
            disk.unlink(path)
    _unlink(disk, data_dir, _DATA_FILES)
    before_the_end()
    _unlink(disk, data_dir, _RECORDS)
    for directory in {data_dir, metadata_dir}:
        if any(directory.iterdir()):
            continue  # others keep something there, too
        try:
            directory.rmdir()
        except OSError as error:
            raise ConfigurationError(
                f"the store is removed, but not {directory}: {error.strerror}"
            ) from error
        disk.sync_directory(directory.parent)


def _unlink(disk: Disk, directory: Path, names: Iterable[str]) -> None:
    for name in names:
        if (directory / name).exists():
            disk.unlink(directory / name)
