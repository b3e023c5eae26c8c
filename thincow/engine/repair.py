"""Repairs a store: rebuilds what follows from the rest, drops what cannot be right.

Only metadata are written, as a new database that takes the place of the old one at once, and the
label; `cowdata` and upstream are read only. The old files are copied aside first, so a repair can
be undone by putting them back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thincow.engine import fsck
from thincow.engine.findings import REPAIRS, Code, NoProgress, Progress, Repair, Report
from thincow.engine.header_check import device_problem, sane_globals
from thincow.engine.header_repair import contents_fit, derive_globals
from thincow.engine.losses import Loss, LossReason, whole_devices
from thincow.engine.repair_rows import rebuild
from thincow.errors import CorruptStoreError, StoreFailedError
from thincow.store.connection import DatabaseError
from thincow.store.cow_file import COW_NAME
from thincow.store.database import DATABASE_NAME
from thincow.store.disk import Disk
from thincow.store.failure_mark import drop_cached_pages, has_mark, remove_mark
from thincow.store.globals_table import Globals
from thincow.store.label import LABEL_NAME, Label, LabelFile, read_label
from thincow.store.locks import lock_directories
from thincow.store.rebuild import keep_aside, put_in_place, rebuilding, remove
from thincow.store.salvage import is_ours, salvage
from thincow.store.snapshot import Snapshot

_UNREADABLE: Final = {
    Code.DATABASE_UNREADABLE,
    Code.DATABASE_DAMAGED,
    Code.TABLE_UNREADABLE,
    Code.SCHEMA_DIFFERS,
}
# Contents that cannot be read now may be readable from a copy of the disk.
_HOPELESS: Final = {
    code
    for code, what in REPAIRS.items()
    if what in (Repair.NONE, Repair.USE_MATCHING) and code != Code.COWDATA_UNREADABLE
}


@dataclass(frozen=True, slots=True)
class RepairResult:
    """What a repair found and did.

    Attributes:
        before: what the check found.
        after: what a check found afterwards; None when nothing was changed.
        kept: copies of the old files.
        losses: contents that are not, or may not be, what they were.
        notes: what else there is to say, a line each.
    """

    before: Report
    after: Report | None
    kept: tuple[Path, ...] = ()
    losses: tuple[Loss, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Tell whether the store is sound and nothing of it was lost."""
        return self.last.is_clean and not self.losses

    @property
    def last(self) -> Report:
        """Return what the last check found."""
        return self.before if self.after is None else self.after

    def and_then(self, other: "RepairResult") -> "RepairResult":
        """Return both as one result."""
        return RepairResult(
            self.before,
            other.last,
            self.kept + other.kept,
            self.losses + other.losses,
            self.notes + other.notes,
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the store is."""

    disk: Disk
    data_dir: Path
    database: Path

    @property
    def unfinished(self) -> Path:
        return self.database.with_name(DATABASE_NAME + ".repaired")

    @property
    def salvaged(self) -> Path:
        return self.database.with_name(DATABASE_NAME + ".salvaged")


def repair(
    data_dir: Path,
    metadata_dir: Path | None = None,
    upstream_dir: Path | None = None,
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> RepairResult:
    """Check a store that is not mounted, and repair it when something is wrong.

    Args:
        data_dir: directory of `cowdata`.
        metadata_dir: directory of `metadata.db`; None is the data directory.
        upstream_dir: when given, upstream is compared with what the store knows of it.
        deep: read all contents, too.
        progress: told about each stage.

    Raises:
        NoStoreError: when there is no store.
        StoreInUseError: when it is mounted; names the pid.
        ConfigurationError: when a directory cannot be opened.
        StoreFailedError: when the repair could not be written.
    """
    metadata_dir = metadata_dir or data_dir
    fsck.require_directories(data_dir, metadata_dir)
    progress = progress or NoProgress()
    place = _Place(Disk(), data_dir, metadata_dir / DATABASE_NAME)
    locks = lock_directories([data_dir, metadata_dir], exclusive=True)
    try:
        if has_mark(data_dir):
            log = place.database.with_name(DATABASE_NAME + "-wal")
            drop_cached_pages(place.disk, [data_dir / COW_NAME, place.database, log])

        def check() -> Report:
            return fsck.check_locked(
                data_dir, metadata_dir, upstream_dir, deep=deep, progress=progress
            )

        result = RepairResult(check(), None)
        if _can_help(result.before):
            result = _repair(place, result.before, check, progress)
        if result.after is not None and _can_help(result.after):
            # Contents are only compared where the map is sound.
            result = result.and_then(_repair(place, result.after, check, progress))
        last = result.last
        if last.is_clean and has_mark(data_dir):
            remove_mark(place.disk, data_dir)
        return result
    finally:
        for lock in locks:
            lock.release()


def _can_help(report: Report) -> bool:
    helpless = {code for code, what in REPAIRS.items() if what == Repair.GIVE_UPSTREAM}
    return not report.totals.keys() & _HOPELESS and bool(
        report.totals.keys() - helpless - {Code.COWDATA_UNREADABLE}
    )


def _repair(
    place: _Place, before: Report, check: Callable[[], Report], progress: Progress
) -> RepairResult:
    kept: list[Path] = []
    try:
        log = place.database.with_name(DATABASE_NAME + "-wal")
        with _source(place, before) as (source, is_whole):
            label = _label(place, before)
            facts = derive_globals(source, label, place.disk, place.data_dir)
            _require_fitting(place, before, label, facts, source)
            is_older = _is_older(source, label)
            progress.stage("copies of the old files")
            kept = keep_aside(place.disk, [place.database, log, place.data_dir / LABEL_NAME])
            progress.stage("the new database")
            size = (place.data_dir / COW_NAME).stat().st_size
            with rebuilding(place.disk, place.unfinished, facts) as new:
                rebuilt = rebuild(new, source, facts, size, before.damage)
        put_in_place(place.disk, place.unfinished, place.database)
        _write_label(place, facts)
    except CorruptStoreError as error:
        return RepairResult(before, None, tuple(kept), notes=(f"not repaired: {error}",))
    except (OSError, DatabaseError) as error:
        raise StoreFailedError(
            f"the repair could not be written ({error}); copies of the old files, if any, are "
            "named .before-repair"
        ) from error
    finally:
        remove(place.disk, place.salvaged)
    losses = rebuilt.losses
    if is_older:
        losses += whole_devices(rebuilt.devices, LossReason.OLDER)
    if not is_whole:
        losses += whole_devices(rebuilt.devices, LossReason.MAP)
    return RepairResult(before, check(), tuple(kept), tuple(losses), tuple(rebuilt.notes))


@contextmanager
def _source(place: _Place, before: Report) -> Iterator[tuple[Snapshot, bool]]:
    """Open what rows are taken from; tell whether no part of the map is missing there.

    Raises:
        CorruptStoreError: when nothing can be read.
    """
    if not before.totals.keys() & _UNREADABLE:
        with Snapshot.open_offline(place.database) as snapshot:
            yield snapshot, True
        return
    if not is_ours(place.disk, place.database):
        raise CorruptStoreError(f"{place.database} is another program's database")
    remove(place.disk, place.salvaged)
    salvaged = salvage(place.disk, place.database, place.salvaged)
    if not salvaged.rows["globals"] or not salvaged.rows["devices"]:
        raise CorruptStoreError(f"nothing can be saved from {place.database}")
    with Snapshot.open_offline(place.salvaged) as snapshot:
        yield snapshot, salvaged.map_is_whole


def _label(place: _Place, before: Report) -> Label | None:
    if before.totals.keys() & {Code.LABEL_MISSING, Code.LABEL_DAMAGED}:
        return None
    return read_label(place.disk, place.data_dir)


def _require_fitting(
    place: _Place, before: Report, label: Label | None, facts: Globals, source: Snapshot
) -> None:
    """Check that contents and metadata are halves of one store.

    Raises:
        CorruptStoreError: when they are not.
    """
    if label is not None and label.store_id != facts.store_id:
        raise CorruptStoreError(f"{COW_NAME} and {DATABASE_NAME} belong to different stores")
    if label is None and (
        Code.COWDATA_SHORT in before.totals
        or not contents_fit(source, facts.block_size, place.disk, place.data_dir)
    ):
        raise CorruptStoreError(
            f"{COW_NAME} does not hold what {DATABASE_NAME} says: it may be another store's"
        )
    for row in source.devices():
        problem = device_problem(row, facts.block_size)
        if problem is not None:
            raise CorruptStoreError(f"device {row.id}: {problem}")


def _is_older(source: Snapshot, label: Label | None) -> bool:
    """Tell whether commits are missing that the contents are known to have had."""
    generation = sane_globals(source).get("generation")
    return label is not None and isinstance(generation, int) and generation < label.generation


def _write_label(place: _Place, facts: Globals) -> None:
    label = LabelFile(place.disk, place.data_dir, facts.store_id, create=True)
    try:
        label.write(facts.generation)
        label.sync()
    finally:
        label.close()
    place.disk.sync_directory(place.data_dir)
