"""Compares the upstream devices with what an opening store knows of them.

Where a flush was cut, contents and modification time are not known: they are left out, and the
device is synced before anything of it is looked at.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from thincow.block_types import device_of, first_address
from thincow.engine.free_runs import Run
from thincow.engine.options import StoreOptions
from thincow.engine.upstream_check import UpstreamVerdict, check_upstreams
from thincow.store import devices_table, extents_table, flushing_table
from thincow.store.database import Database
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.upstream import Upstream

_log = logging.getLogger(__name__)


def examine_identity(
    options: StoreOptions,
    disk: Disk,
    database: Database,
    facts: Globals,
    upstreams: Sequence[Upstream],
) -> tuple[list[Run], UpstreamVerdict]:
    """Return the upstream ranges that a flush was cut in, and the verdict on all devices.

    Raises:
        UpstreamChangedError: when a device is not the one that the store was made with.
    """
    marks = flushing_table.load(database.reader)
    recorded = devices_table.load(database.reader)
    own_ends = {
        row.id: first_address(row.id) + row.own_blocks(facts.block_size) for row in recorded
    }
    known, prints = as_far_as_known(
        recorded, devices_table.load_fingerprints(database.reader), marks
    )
    _sync_marked(disk, upstreams, known, marks)
    verdict = check_upstreams(
        known,
        prints,
        upstreams,
        facts.block_size,
        disk,
        lambda address: extents_table.is_referenced(
            database.reader, address, facts.window_blocks, own_ends[device_of(address)]
        ),
        options.force,
        options.extra_devices,
    )
    return marks, verdict


def as_far_as_known(
    devices: Sequence[DeviceRow], prints: Mapping[int, int], marks: Sequence[Run]
) -> tuple[list[DeviceRow], dict[int, int]]:
    """Return recorded devices and fingerprints without what a cut flush made unknown."""
    marked = _being_flushed(devices, marks)
    rows = [replace(row, mtime_ns=None) if row.id in marked else row for row in devices]
    known = {
        block: value
        for block, value in prints.items()
        if not any(first <= block < first + length for first, length in marks)
    }
    return rows, known


def _sync_marked(
    disk: Disk, upstreams: Sequence[Upstream], rows: list[DeviceRow], marks: list[tuple[int, int]]
) -> None:
    """Sync devices that a flush was cut in, before anything is compared with them."""
    marked = _being_flushed(rows, marks)
    names = {row.name for row in rows if row.id in marked}
    for upstream in upstreams:
        if upstream.file.name in names:
            try:
                disk.sync(upstream.fd)
            except OSError as error:
                _log.warning("%s cannot be synced: %s", upstream.file.name, error.strerror)


def _being_flushed(rows: Iterable[DeviceRow], marks: Iterable[Run]) -> set[int]:
    """Return the ids of devices that a flush was cut in, writing or changing the size."""
    return {device_of(first) for first, _ in marks} | {
        row.id for row in rows if row.flush_bytes is not None
    }
