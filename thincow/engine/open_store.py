"""Opens a store: everything is checked before anything is created or changed.

The composition root: it only builds. Order: upstream, directories, halves, database, identity of
upstream; then one commit that says that the store is open.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from thincow.engine import hash_index
from thincow.engine.device import Device
from thincow.engine.open_identity import examine_identity
from thincow.engine.options import StoreOptions, hash_capacity
from thincow.engine.store_files import (
    StorePaths,
    create_store,
    make_directories,
    open_metadata,
    paths_of,
    require_halves_match,
    require_same_choices,
    store_exists,
)
from thincow.engine.upstream_check import CheckedDevice, DeviceState
from thincow.errors import ConfigurationError, CorruptStoreError
from thincow.store import (
    checksums_table,
    connection,
    cow_table,
    devices_table,
    globals_table,
    validation,
)
from thincow.store.backup_mark import refuse_incomplete
from thincow.store.block_devices import refuse_data_on_served_device, refuse_overlaps
from thincow.store.cow_file import CowFile
from thincow.store.database import Database
from thincow.store.disk import Disk
from thincow.store.failure_mark import drop_cached_pages, has_mark, remove_mark
from thincow.store.globals_table import Globals
from thincow.store.label import LabelFile
from thincow.store.locks import DirectoryLock, lock_directories
from thincow.store.migrations import migrate
from thincow.store.space_reserve import SpaceReserve
from thincow.store.upstream import (
    Upstream,
    UpstreamFile,
    examine_file,
    refuse_store_among_upstreams,
    require_addressable,
    require_possible_extra,
    scan,
)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class OpenStore:
    """Everything that is open. `label` and `reserve` are None for a read-only store.

    `was_closed`: the last mount ended properly, with all free space given back.
    """

    paths: StorePaths
    database: Database
    facts: Globals
    cow_file: CowFile
    label: LabelFile | None
    reserve: SpaceReserve | None
    locks: list[DirectoryLock]
    devices: list[Device]
    was_closed: bool
    marks: list[tuple[int, int]]
    """Upstream ranges that a flush was cut in: (first block address, length)."""

    def close(self, *, keep_log: bool = False) -> None:
        """Close all files and let others have the store."""
        with ExitStack() as stack:
            # All that was promised is synced: what close(2) answers changes nothing.
            stack.enter_context(suppress(OSError))
            for lock in self.locks:
                stack.callback(lock.release)
            for device in self.devices:
                if device.upstream is not None:
                    stack.callback(device.upstream.close)
            stack.callback(self.cow_file.close)
            if self.label is not None:
                stack.callback(self.label.close)
            if self.reserve is not None:
                stack.callback(self.reserve.release)
            self.database.close(keep_log=keep_log)


def open_store(options: StoreOptions, disk: Disk) -> OpenStore:
    """Open or create the store that the options name.

    Raises:
        ThincowError: when anything forbids; then nothing was created or changed.
    """
    connection.require_fixed_sqlite()
    connection.set_temp_dir(options.temp_dir)
    files = _examine_upstream(options)
    paths = paths_of(options)
    _require_usable_directories(paths, options, files)
    with ExitStack() as stack:
        upstreams = []
        for file in files:
            upstream = Upstream(disk, file)
            stack.callback(upstream.close)
            upstreams.append(upstream)
        present = [directory for directory in paths.directories if directory.is_dir()]
        locks = lock_directories(present, exclusive=not options.read_only)
        stack.callback(_release, locks)
        refuse_incomplete(paths.data_dir)
        exists = store_exists(disk, paths)
        if exists and (options.check or has_mark(paths.data_dir)):
            _require_sound(disk, paths)
        if not exists and options.read_only:
            raise ConfigurationError(f"there is no store in {paths.data_dir} to mount read-only")
        if not (exists or files or options.extra_devices):
            raise ConfigurationError("an upstream directory is needed: give --upstream")
        require_possible_extra(options.extra_devices, files, options.block_size or 4096)
        if not exists:
            require_addressable(files, options.block_size or 4096)
            make_directories(disk, paths, present, locks)
            memory = create_store(disk, paths, options)
            if memory is not None:
                database = Database(memory, memory, None)
            else:
                database = open_metadata(disk, paths, options)
        else:
            database = open_metadata(disk, paths, options)
        with _closing_on_error(paths, database):
            store = _assemble(options, disk, paths, database, upstreams, locks)
        stack.pop_all()
        return store


def _examine_upstream(options: StoreOptions) -> list[UpstreamFile]:
    if options.upstream_file is not None:
        return [examine_file(options.upstream_file)]
    if options.upstream_dir is None:
        return []
    files = scan(options.upstream_dir)
    refuse_overlaps((file.name, file.resolved_path) for file in files)
    return files


def _require_usable_directories(
    paths: StorePaths, options: StoreOptions, files: list[UpstreamFile]
) -> None:
    for directory in paths.directories:
        if directory.exists() and not directory.is_dir():
            raise ConfigurationError(f"{directory} is not a directory")
        existing = directory if directory.is_dir() else directory.absolute().parent
        if not existing.is_dir():
            raise ConfigurationError(f"directory {existing} does not exist")
        mode = os.R_OK | os.X_OK | (0 if options.read_only else os.W_OK)
        if not os.access(existing, mode):
            raise ConfigurationError(f"directory {existing} is not writable")
    refuse_store_among_upstreams(paths.directories, options.upstream_dir, files)
    refuse_data_on_served_device(
        paths.directories, [(file.name, file.resolved_path) for file in files]
    )
    if options.temp_dir is not None and not os.access(options.temp_dir, os.W_OK | os.X_OK):
        raise ConfigurationError(f"temporary directory {options.temp_dir} is not writable")


def _require_sound(disk: Disk, paths: StorePaths) -> None:
    assert paths.database is not None
    if has_mark(paths.data_dir):
        log = paths.database.with_name(paths.database.name + "-wal")
        drop_cached_pages(disk, [paths.cowdata, paths.database, log])
    # A store that was closed properly is opened without: it takes long to load.
    from thincow.engine import fsck

    report = fsck.check_locked(paths.data_dir, paths.database.parent)
    if report.findings:
        first = report.findings[0]
        raise CorruptStoreError(
            f"the store in {paths.data_dir} has {sum(report.totals.values())} problem(s), first "
            f"{first.code} at {first.place}: run 'thincow fsck'"
        )


def _assemble(
    options: StoreOptions,
    disk: Disk,
    paths: StorePaths,
    database: Database,
    upstreams: list[Upstream],
    locks: list[DirectoryLock],
) -> OpenStore:
    where = paths.database or Path("metadata")
    facts = validation.identify(database.reader, where)
    if paths.database is not None:
        require_halves_match(disk, paths, facts)
    require_same_choices(options, facts)
    if not options.read_only and paths.database is not None:
        database.use_log()
        migrate(database.writer, where)
    validation.require_current(database.reader, where)
    facts = validation.validate(database.reader, where)
    was_closed = facts.clean
    if not was_closed:
        validation.quick_check(database.reader, where)
    require_addressable([upstream.file for upstream in upstreams], facts.block_size)
    marks, verdict = examine_identity(options, disk, database, facts, upstreams)
    for warning in verdict.warnings:
        _log.warning("%s", warning)
    by_name = {upstream.file.name: upstream for upstream in upstreams}
    devices = [
        Device(checked.row, by_name.get(checked.row.name), facts.block_size)
        for checked in verdict.devices
    ]
    label = reserve = None
    with ExitStack() as stack:
        cow_file = CowFile(disk, paths.data_dir, read_only=options.read_only)
        stack.callback(cow_file.close)
        if not options.read_only:
            if paths.database is not None:
                directory = paths.database.parent
                reserve = SpaceReserve(disk, directory, options.tuning.max_reserve_bytes)
                # What a killed process left of it is room for the first commit.
                reserve.release()
            facts = _mark_open(options, database, facts, list(verdict.devices))
            label = LabelFile(disk, paths.data_dir, facts.store_id)
            stack.callback(label.close)
            label.write_if_room(facts.generation)
            if has_mark(paths.data_dir):
                remove_mark(disk, paths.data_dir)
        stack.pop_all()
    connection.limit_size(database.writer, options.max_metadata_bytes)
    return OpenStore(
        paths, database, facts, cow_file, label, reserve, locks, devices, was_closed, marks
    )


def _mark_open(
    options: StoreOptions, database: Database, facts: Globals, devices: list[CheckedDevice]
) -> Globals:
    """Commit that the store is open, and what was found upstream."""
    bits = facts.checksum_bits if options.checksum_bits is None else options.checksum_bits
    capacity = hash_capacity(options)
    db = database.writer
    with database.transaction():
        if bits != facts.checksum_bits:
            checksums_table.clear(db)
        generation = facts.generation + 1
        entries = hash_index.shrink(db, facts.hash_entries, capacity, generation)
        changed: dict[str, str | int] = {
            "generation": generation,
            "clean": 0,
            "hash_entries": entries,
            "checksum_bits": bits,
        }
        if cow_table.end_block(db) == 0:
            changed[globals_table.ENTRIES_LOST] = 0
        elif entries < facts.hash_entries:
            changed[globals_table.ENTRIES_LOST] = 1
        for device in devices:
            if not device.is_recorded and device.state != DeviceState.MISSING:
                devices_table.store(db, [device.row])
                first = device.row.id << 40
                devices_table.store_fingerprints(db, first, first + (1 << 40), device.fingerprints)
        globals_table.store(db, changed)
    return globals_table.load(db)


@contextmanager
def _closing_on_error(paths: StorePaths, database: Database) -> Iterator[None]:
    """Close the database when the body fails, leaving an unmerged log as it was found."""
    log = None if paths.database is None else Path(f"{paths.database}-wal")
    had_log = log is not None and log.exists() and log.stat().st_size > 0
    try:
        yield
    except BaseException:
        with suppress(Exception):
            database.close(keep_log=had_log)
        raise


def _release(locks: list[DirectoryLock]) -> None:
    for lock in locks:
        lock.release()
