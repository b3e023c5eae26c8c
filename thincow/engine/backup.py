"""Makes a copy of one commit of a store that passes every check and can be mounted.

The copy is marked as incomplete, durably, before anything else of it is written, and the mark goes
when all of it is durable: so one that was cut short, by whatever, is refused.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from thincow.engine.backup_contents import Amounts, ContentsCopy, live_runs
from thincow.engine.findings import NoProgress, Progress
from thincow.engine.header_check import Header
from thincow.engine.store_view import StoreView
from thincow.errors import ConfigurationError, CorruptStoreError, StoreMismatchError, ThincowError
from thincow.store.backup_mark import begin_backup, complete_backup, read_mark
from thincow.store.database import DATABASE_NAME
from thincow.store.database_copy import database_files, seal_copy
from thincow.store.disk import Disk
from thincow.store.failure_mark import has_mark
from thincow.store.label import LABEL_NAME, LabelFile, read_label
from thincow.store.locks import lock_directories
from thincow.store.snapshot import Snapshot
from thincow.store.upstream import refuse_store_among_upstreams


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup is of: the number of the commit, and sizes in bytes."""

    generation: int
    contents: Amounts
    metadata_bytes: int


def back_up(
    view: StoreView,
    target: Path,
    *,
    incremental: bool = False,
    disk: Disk | None = None,
    progress: Progress | None = None,
) -> BackupResult:
    """Copy a commit of a store to a directory.

    Args:
        view: of the store. Its snapshot is closed as soon as it is not needed any more.
        target: an empty directory, or one that can be made; with `incremental` an older backup of
            the same store, which is no backup until this one is complete.
        incremental: write only what differs from the older backup.
        disk: to reach files through.
        progress: told about each stage.

    Raises:
        ConfigurationError: when the target cannot be used; nothing was changed then.
        ThincowError: when something could not be read or written, or the mount ended: the target
            is marked as incomplete.
    """
    disk, progress = disk or Disk(), progress or NoProgress()
    header = view.header()
    _refuse_place(view, target)
    with _locked_directory(disk, target):
        if has_mark(view.data_dir):
            raise ConfigurationError(
                f"a sync of {view.data_dir} failed: run 'thincow fsck --repair' on it first"
            )
        try:
            _require_usable(disk, header, target, incremental=incremental)
            return _copy(disk, view, header, target, progress)
        except OSError as error:
            raise ThincowError(f"{target} cannot be used: {error.strerror}") from error


def _copy(
    disk: Disk, view: StoreView, header: Header, target: Path, progress: Progress
) -> BackupResult:
    begin_backup(disk, target, header.store_id, header.generation)
    database = target / DATABASE_NAME
    for path in (target / LABEL_NAME, *database_files(database)):
        if path.exists():
            disk.unlink(path)
    progress.stage("metadata")
    disk.close(disk.open(database, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    view.snapshot.copy_to(database, disk.sqlite_vfs, progress.advance)
    # The copy tells the same from here on, and the store can begin its log anew.
    view.snapshot.close()
    amounts = _copy_contents(disk, view, target, header.block_size, progress)
    view.require_valid()
    progress.stage("the end")
    label = LabelFile(disk, target, header.store_id, create=True)
    try:
        label.write(header.generation)
        label.sync()
    finally:
        label.close()
    seal_copy(disk, database)
    complete_backup(disk, target)
    return BackupResult(header.generation, amounts, database.stat().st_size)


def _copy_contents(
    disk: Disk, view: StoreView, target: Path, block_size: int, progress: Progress
) -> Amounts:
    progress.stage("contents")
    with Snapshot.open_offline(target / DATABASE_NAME) as snapshot:
        total = max(1, snapshot.cow_use().live)
        copy = ContentsCopy(disk, view.data_dir, target, block_size)
        with closing(copy):
            done = 0
            for first, length in live_runs(snapshot):
                copy.take(first * block_size, length * block_size)
                done += length
                progress.advance(done / total)
            copy.finish()
        return copy.amounts


def _refuse_place(view: StoreView, target: Path) -> None:
    place = target.resolve()
    if place in (view.data_dir.resolve(), view.metadata_dir.resolve()):
        raise ConfigurationError(f"{target} is the store itself: give another directory")
    if view.upstream_dir is not None:
        refuse_store_among_upstreams([place], view.upstream_dir, ())


@contextmanager
def _locked_directory(disk: Disk, target: Path) -> Iterator[None]:
    try:
        target.mkdir(exist_ok=True)
        disk.sync_directory(target.parent)
    except OSError as error:
        raise ConfigurationError(f"cannot make {target}: {error.strerror}") from error
    locks = lock_directories([target], exclusive=True)
    try:
        yield
    finally:
        for lock in locks:
            lock.release()


def _require_usable(disk: Disk, header: Header, target: Path, *, incremental: bool) -> None:
    names = {path.name for path in target.iterdir()} - {"lost+found"}
    if not incremental:
        if names:
            raise ConfigurationError(
                f"{target} is not empty: give a new directory, or --incremental for an older "
                "backup of this store"
            )
        return
    mark = read_mark(disk, target)
    if mark is None:
        raise ConfigurationError(f"{target} is no backup of a store: give another directory")
    if mark.store_id != header.store_id:
        raise StoreMismatchError(f"{target} is not a backup of this store: give another directory")
    found = _newest_commit(disk, target, is_complete=mark.is_complete)
    if mark.is_complete and mark.generation is not None and found > mark.generation:
        raise StoreMismatchError(
            f"{target} was written to after it was made (commit {mark.generation}, now {found}): "
            "it is not overwritten"
        )
    if found > header.generation:
        raise StoreMismatchError(
            f"{target} is newer (commit {found}) than the store (commit {header.generation}): it "
            "is not overwritten"
        )


def _newest_commit(disk: Disk, target: Path, *, is_complete: bool) -> int:
    """Return the highest number of a commit that a backup names; -1 when nothing can be read."""
    newest = -1
    with suppress(CorruptStoreError):
        label = read_label(disk, target)
        newest = -1 if label is None else label.generation
    if is_complete:
        # A power cut may have left the label behind.
        with (
            suppress(CorruptStoreError, OSError),
            Snapshot.open_offline(target / DATABASE_NAME) as snapshot,
        ):
            generation = snapshot.globals().get("generation")
            newest = max(newest, generation) if isinstance(generation, int) else newest
    return newest
