"""The check of a whole store: which checks there are, in which order, and when to stop.

Owns no check of its own but those of the files; `check_snapshot` serves a store that is open, too.
Nothing is written, anywhere: a store in need of a check may lie on a failing disk. What is broken
becomes a finding, never an exception; those are for when nothing could be examined. Contents are
read only when a deep check is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from thincow.engine import deep_check, flushing_check, header_check, hint_check, map_check
from thincow.engine.count_check import StepFunction
from thincow.engine.file_check import Contents, examine_contents, is_store_file
from thincow.engine.findings import Code, Findings, NoProgress, Progress, Report, reason
from thincow.engine.header_check import Header
from thincow.engine.map_check import Bounds
from thincow.engine.store_view import StoreView
from thincow.engine.stored_blocks import open_blocks
from thincow.engine.upstream_findings import check_recorded_upstream
from thincow.errors import ConfigurationError, CorruptStoreError, NoStoreError
from thincow.store.backup_mark import refuse_incomplete
from thincow.store.cow_file import COW_NAME
from thincow.store.database import DATABASE_NAME
from thincow.store.disk import Disk
from thincow.store.locks import lock_directories
from thincow.store.snapshot import Snapshot

_INTEGRITY_LINES = 100
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where contents are, and how they are read."""

    data_dir: Path
    upstream_dir: Path | None
    disk: Disk


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the check of contents needs to know of the database."""

    header: Header
    bounds: Bounds
    counts: StepFunction


def check(
    data_dir: Path,
    metadata_dir: Path | None = None,
    upstream_dir: Path | None = None,
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check a store that is not mounted for writing.

    Args:
        data_dir: directory of `cowdata`.
        metadata_dir: directory of `metadata.db`; None is the data directory.
        upstream_dir: when given, upstream is compared with what the store knows of it.
        deep: read all contents, too.
        progress: told about each stage.

    Raises:
        NoStoreError: when there is no store.
        StoreInUseError: when it is mounted; names the pid.
        ConfigurationError: when a directory cannot be opened, or it is an unfinished backup.
    """
    metadata_dir = metadata_dir or data_dir
    require_directories(data_dir, metadata_dir)
    locks = lock_directories([data_dir, metadata_dir], exclusive=False)
    try:
        return check_locked(data_dir, metadata_dir, upstream_dir, deep=deep, progress=progress)
    finally:
        for lock in locks:
            lock.release()


def require_directories(data_dir: Path, metadata_dir: Path) -> None:
    """Check that the directories of a store are there.

    Raises:
        NoStoreError: when one is not.
    """
    for directory in (data_dir, metadata_dir):
        if not directory.is_dir():
            raise NoStoreError(f"there is no directory {directory}")


def check_snapshot(
    snapshot: Snapshot, *, cowdata_bytes: int | None = None, progress: Progress | None = None
) -> Report:
    """Check all that a snapshot of an open store holds.

    Args:
        snapshot: of the store; stays open.
        cowdata_bytes: size of `cowdata` when the snapshot was taken, or later; None leaves the
            check of it out.
        progress: told about each stage.
    """
    findings = Findings()
    contents = Contents(cowdata_bytes, label=None, has_label=False)
    _check_database(snapshot, contents, findings, progress or NoProgress())
    return findings.report()


def check_view(
    view: StoreView, *, disk: Disk, deep: bool = False, progress: Progress | None = None
) -> Report:
    """Check one commit of a store that may be mounted, with all that the view knows of.

    Args:
        view: of the store.
        disk: to read contents through.
        deep: read all contents, too.
        progress: told about each stage.

    Raises:
        ThincowError: when the view did not stay valid, so that findings would mean nothing.
    """
    progress = progress or NoProgress()
    findings = Findings()
    contents = examine_contents(view.data_dir, has_cowdata=True, findings=findings)
    if contents.label is not None:
        # Commits go on meanwhile, so only the store that it names can be wrong.
        contents = replace(contents, label=replace(contents.label, generation=0))
    place = _Place(view.data_dir, view.upstream_dir, disk)
    _check_all(view.snapshot, place, contents, findings, progress, deep=deep)
    view.require_valid()
    return findings.report()


def check_locked(
    data_dir: Path,
    metadata_dir: Path,
    upstream_dir: Path | None = None,
    *,
    deep: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Check a store as `check` does, for a caller that holds the locks of its directories.

    Raises:
        NoStoreError: when there is no store.
        ConfigurationError: when it is a backup that was not completed.
    """
    refuse_incomplete(data_dir)
    progress = progress or NoProgress()
    findings = Findings()
    progress.stage("files")
    database = metadata_dir / DATABASE_NAME
    has_database = is_store_file(database, Code.METADATA_MISSING, findings)
    has_cowdata = is_store_file(data_dir / COW_NAME, Code.COWDATA_MISSING, findings)
    if findings.codes() == {Code.METADATA_MISSING, Code.COWDATA_MISSING}:
        raise NoStoreError(f"there is no store in {metadata_dir}")
    contents = examine_contents(data_dir, has_cowdata, findings)
    if has_database:
        try:
            with Snapshot.open_offline(database) as snapshot:
                place = _Place(data_dir, upstream_dir, disk=Disk())
                _check_all(snapshot, place, contents, findings, progress, deep=deep and has_cowdata)
        except (CorruptStoreError, OSError) as error:
            findings.add(Code.DATABASE_UNREADABLE, str(database), reason(error))
    return findings.report()


def _check_all(
    snapshot: Snapshot,
    place: _Place,
    contents: Contents,
    findings: Findings,
    progress: Progress,
    *,
    deep: bool,
) -> None:
    checked = _check_database(snapshot, contents, findings, progress)
    if checked is None:
        return
    if place.upstream_dir is not None:
        progress.stage("upstream")
        check_recorded_upstream(place.upstream_dir, snapshot, checked.header, findings)
    if deep:
        _check_contents(place, snapshot, checked, findings, progress)


def _check_database(
    snapshot: Snapshot, contents: Contents, findings: Findings, progress: Progress
) -> _Checked | None:
    """Run all checks of the database; return what later checks need when its header is sane."""
    try:
        progress.stage("schema")
        if not header_check.check_version(snapshot, findings):
            return None
        if not header_check.check_schema(snapshot, findings):
            return None
        progress.stage("database")
        for line in snapshot.integrity_messages(_INTEGRITY_LINES):
            findings.add(Code.DATABASE_DAMAGED, DATABASE_NAME, line)
        header = header_check.check_header(snapshot, findings)
    except CorruptStoreError as error:
        findings.add(Code.DATABASE_UNREADABLE, DATABASE_NAME, str(error))
        return None
    if header is None:
        return None
    if contents.has_label:
        header_check.check_label(contents.label, header, findings)
    bounds = Bounds(header.devices, header.block_size, header.window_blocks, contents.cowdata_bytes)
    counts = _check_tables(snapshot, header, bounds, findings, progress)
    return _Checked(header, bounds, counts)


def _check_tables(
    snapshot: Snapshot, header: Header, bounds: Bounds, findings: Findings, progress: Progress
) -> StepFunction:
    """Check the big tables; one that cannot be read does not keep the others from it.

    Returns:
        The stored counts of COW blocks.
    """

    def attempt(stage: str, step: Callable[[], _Result]) -> _Result | None:
        progress.stage(stage)
        try:
            return step()
        except CorruptStoreError as error:
            findings.add(Code.TABLE_UNREADABLE, DATABASE_NAME, str(error))
            return None

    found = attempt("extents", lambda: map_check.check_extents(snapshot, bounds, findings))
    stored = attempt("counts", lambda: map_check.check_counts(snapshot, bounds, findings))
    if found is not None and stored is not None:
        map_check.compare_counts(stored, found, findings)
    counts = stored or StepFunction()
    attempt(
        "hashes",
        lambda: hint_check.check_hashes(snapshot, bounds, counts, header.hash_entries, findings),
    )
    attempt(
        "checksums",
        lambda: hint_check.check_checksums(snapshot, bounds, header.checksum_bits, findings),
    )
    attempt("flushing", lambda: flushing_check.check_flushing(snapshot, bounds, findings))
    attempt("fingerprints", lambda: hint_check.check_fingerprints(snapshot, bounds, findings))
    return counts


def _check_contents(
    place: _Place,
    snapshot: Snapshot,
    checked: _Checked,
    findings: Findings,
    progress: Progress,
) -> None:
    """Read all contents; without upstream when it cannot be used, which was found before."""
    unusable = Code.UPSTREAM_UNUSABLE in findings.codes()
    upstream_dir = None if unusable else place.upstream_dir
    header = checked.header
    try:
        with open_blocks(
            place.disk, place.data_dir, upstream_dir, header.devices, header.block_size
        ) as blocks:
            deep_check.check_contents(
                snapshot, blocks, checked.bounds, checked.counts, findings, progress
            )
    except CorruptStoreError as error:
        findings.add(Code.TABLE_UNREADABLE, DATABASE_NAME, str(error))
    except (ConfigurationError, OSError) as error:
        findings.add(Code.COWDATA_UNREADABLE, COW_NAME, reason(error))
