"""The check of a whole store: which checks there are, in which order, and when to stop.

Owns no check of its own but those of the files; `check_snapshot` serves a store that is open, too.
Nothing is written, anywhere: a store in need of a check may lie on a failing disk. What is broken
becomes a finding, never an exception; those are for when nothing could be examined. Contents are
read only when a deep check is asked for.
"""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from thincow.engine import deep_check, header_check, hint_check, map_check
from thincow.engine.count_check import StepFunction
from thincow.engine.findings import Code, Findings, NoProgress, Progress, Report
from thincow.engine.header_check import Header
from thincow.engine.map_check import Bounds
from thincow.engine.open_identity import as_far_as_known
from thincow.engine.stored_blocks import open_blocks
from thincow.engine.upstream_check import DeviceState, check_upstreams
from thincow.errors import ConfigurationError, CorruptStoreError, NoStoreError
from thincow.store.cow_file import COW_NAME
from thincow.store.database import DATABASE_NAME
from thincow.store.disk import Disk
from thincow.store.label import LABEL_NAME, Label, read_label
from thincow.store.locks import lock_directories
from thincow.store.snapshot import Snapshot
from thincow.store.upstream import Upstream, scan

_INTEGRITY_LINES = 100
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found beside the database: size of `cowdata` (None: unknown), and the label."""

    cowdata_bytes: int | None
    label: Label | None
    has_label: bool
    """False when `label` says nothing: it could not be read, or was not looked for."""


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
        ConfigurationError: when a directory cannot be opened.
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
    """
    progress = progress or NoProgress()
    findings = Findings()
    progress.stage("files")
    database = metadata_dir / DATABASE_NAME
    has_database = _is_file(database, Code.METADATA_MISSING, findings)
    has_cowdata = _is_file(data_dir / COW_NAME, Code.COWDATA_MISSING, findings)
    if findings.codes() == {Code.METADATA_MISSING, Code.COWDATA_MISSING}:
        raise NoStoreError(f"there is no store in {metadata_dir}")
    contents = _examine_contents(data_dir, has_cowdata, findings)
    if has_database:
        try:
            with Snapshot.open_offline(database) as snapshot:
                checked = _check_database(snapshot, contents, findings, progress)
                if checked is not None and upstream_dir is not None:
                    progress.stage("upstream")
                    _check_upstream(upstream_dir, snapshot, checked.header, findings)
                if checked is not None and deep and has_cowdata:
                    _check_contents(data_dir, upstream_dir, snapshot, checked, findings, progress)
        except (CorruptStoreError, OSError) as error:
            findings.add(Code.DATABASE_UNREADABLE, str(database), _reason(error))
    return findings.report()


def _is_file(path: Path, missing: Code, findings: Findings) -> bool:
    try:
        if path.is_file():
            return True
        if path.exists():
            findings.add(Code.FILE_TYPE, str(path), "is no regular file")
        else:
            findings.add(missing, str(path), "is missing")
    except OSError as error:
        findings.add(Code.FILE_TYPE, str(path), _reason(error))
    return False


def _examine_contents(data_dir: Path, has_cowdata: bool, findings: Findings) -> Contents:
    size = label = None
    has_label = True
    try:
        if has_cowdata:
            size = (data_dir / COW_NAME).stat().st_size
            findings.count("cowdata_bytes", size)
        if (data_dir / LABEL_NAME).exists():
            has_label = _is_file(data_dir / LABEL_NAME, Code.LABEL_MISSING, findings)
            label = read_label(Disk(), data_dir) if has_label else None
    except (CorruptStoreError, OSError) as error:
        findings.add(Code.LABEL_DAMAGED, str(data_dir / LABEL_NAME), _reason(error))
        has_label = False
    return Contents(size, label, has_label)


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
    attempt("flushing", lambda: hint_check.check_flushing(snapshot, bounds, findings))
    attempt("fingerprints", lambda: hint_check.check_fingerprints(snapshot, bounds, findings))
    return counts


def _check_contents(
    data_dir: Path,
    upstream_dir: Path | None,
    snapshot: Snapshot,
    checked: _Checked,
    findings: Findings,
    progress: Progress,
) -> None:
    """Read all contents; without upstream when it cannot be used, which was found before."""
    if Code.UPSTREAM_UNUSABLE in findings.codes():
        upstream_dir = None
    header = checked.header
    try:
        with open_blocks(
            Disk(), data_dir, upstream_dir, header.devices, header.block_size
        ) as blocks:
            deep_check.check_contents(
                snapshot, blocks, checked.bounds, checked.counts, findings, progress
            )
    except CorruptStoreError as error:
        findings.add(Code.TABLE_UNREADABLE, DATABASE_NAME, str(error))
    except (ConfigurationError, OSError) as error:
        findings.add(Code.COWDATA_UNREADABLE, COW_NAME, _reason(error))


def _check_upstream(
    directory: Path, snapshot: Snapshot, header: Header, findings: Findings
) -> None:
    """Compare the devices in the upstream directory with those that the store knows."""
    disk = Disk()
    try:
        with ExitStack() as stack:
            files = scan(directory, disk)
            upstreams = [stack.enter_context(closing(Upstream(disk, file))) for file in files]
            marks = [
                (first, length)
                for chunk in snapshot.flushing()
                for first, length in zip(*(column.tolist() for column in chunk), strict=True)
            ]
            verdict = check_upstreams(
                *as_far_as_known(header.devices, snapshot.fingerprints_by_block(), marks),
                upstreams,
                header.block_size,
                disk,
                lambda address: snapshot.is_referenced(address, header.window_blocks),
                force=True,
            )
    except (ConfigurationError, CorruptStoreError, OSError) as error:
        findings.add(Code.UPSTREAM_UNUSABLE, str(directory), _reason(error))
        return
    other = (DeviceState.MISSING, DeviceState.CHANGED)
    different = [device for device in verdict.devices if device.state in other]
    for device, warning in zip(different, verdict.warnings, strict=True):
        missing = device.state == DeviceState.MISSING
        code = Code.UPSTREAM_MISSING if missing else Code.UPSTREAM_CHANGED
        findings.add(code, f"device {device.row.name}", warning)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
