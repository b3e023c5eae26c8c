"""Fills a new database with all that can be kept of a damaged one.

Owns the order of it, which is that of what rests on what: the map, the counts that follow from it,
checksums of blocks that are still what they were, hints.
"""

from dataclasses import dataclass

import numpy as np

from thincow.engine.count_check import StepFunction, compare
from thincow.engine.findings import Damage
from thincow.engine.flushing_check import find_shown
from thincow.engine.losses import Loss, LossReason, list_losses
from thincow.engine.map_check import MAX_COW_BLOCKS, Bounds
from thincow.engine.row_repair import (
    MapRepair,
    Ranges,
    SumRepair,
    repair_fingerprints,
    repair_hashes,
)
from thincow.store.columns import FlushingColumns, IntColumn
from thincow.store.cow_file import COW_NAME
from thincow.store.devices_table import DeviceRow
from thincow.store.globals_table import Globals
from thincow.store.rebuild import Rebuild
from thincow.store.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of filling the new database: its devices, what is lost, what else to say."""

    devices: list[DeviceRow]
    losses: list[Loss]
    notes: list[str]


def rebuild(
    new: Rebuild, source: Snapshot, facts: Globals, cowdata_bytes: int, damage: Damage
) -> Rebuilt:
    """Fill a new database with what can be kept of an old one.

    Args:
        new: the new database.
        source: the old one, or what was saved of it.
        facts: what the store is.
        cowdata_bytes: size of `cowdata`.
        damage: contents that are known to be wrong.

    Raises:
        CorruptStoreError: when the source cannot be read, or holds what no repair can bear.
    """
    devices = source.devices()
    bounds = Bounds(devices, facts.block_size, facts.window_blocks, cowdata_bytes)
    repairing = MapRepair(bounds)
    new.add_devices(devices)
    for extents in source.extents():
        new.add_extents(repairing.extents(extents))
    new.add_counts(repairing.counts())
    _add_sums(new, source, facts, bounds, repairing.lost, damage)
    _add_hints(new, source, bounds, damage)
    viewers = _add_flushing(new, source, bounds)
    notes = []
    unclaimed = _count_unclaimed(source, repairing.references)
    if unclaimed:
        notes.append(
            f"{unclaimed} blocks of {COW_NAME} were counted as used, but no device shows them: "
            "they are free now"
        )
    losses = _losses(devices, facts, repairing.lost, damage)
    losses += list_losses(devices, facts.block_size, LossReason.FLUSHING, viewers)
    return Rebuilt(devices, losses, notes)


def _add_sums(
    new: Rebuild, source: Snapshot, facts: Globals, bounds: Bounds, lost: Ranges, damage: Damage
) -> None:
    """Take over the checksums of all blocks that are still what they were."""
    gone = Ranges()
    first, end = lost.merged()
    gone.add(first, end - first)
    for addresses in damage.sums:
        gone.add(addresses, np.ones_like(addresses))
    sums = SumRepair(bounds, facts.checksum_bits, *gone.merged())
    for row in source.checksum_rows():
        kept = sums.row(row)
        if kept is not None:
            new.add_checksums(kept)


def _add_flushing(new: Rebuild, source: Snapshot, bounds: Bounds) -> Ranges:
    """Take over the upstream blocks whose contents a flush made unknown, but for those shown.

    Returns:
        The virtual blocks that show the others.
    """
    marks = Ranges()
    for rows in source.flushing():
        room = bounds.room_upstream(rows.first_block)
        marks.add(rows.first_block, np.clip(rows.length, 0, room))
    shown = find_shown(marks, bounds, lambda: map(MapRepair(bounds).extents, source.extents()))
    first, end = marks.merged()
    kept = StepFunction()
    kept.add(first, end - first, np.ones_like(first))
    first, end = shown.marked.merged()
    kept.add(first, end - first, -np.ones_like(first))
    at, by = kept.changes()
    some = np.flatnonzero(np.cumsum(by) > 0)
    new.add_flushing(FlushingColumns(at[some], at[some + 1] - at[some]))
    return shown.viewers


def _add_hints(new: Rebuild, source: Snapshot, bounds: Bounds, damage: Damage) -> None:
    wrong: IntColumn = np.concatenate([np.empty(0, np.int64), *damage.entries])
    entries = 0
    for hashes in source.hashes():
        good = repair_hashes(hashes, bounds, wrong)
        entries += len(good.hash)
        new.add_hashes(good)
    new.set_hash_entries(entries)
    for fingerprints in source.fingerprints():
        new.add_fingerprints(repair_fingerprints(fingerprints, bounds))


def _count_unclaimed(source: Snapshot, references: StepFunction) -> int:
    """Return how many blocks have a count in the old database and no reference in the new one."""
    stored = StepFunction()
    for rows in source.cow():
        sane = (rows.first_block >= 0) & (rows.first_block < MAX_COW_BLOCKS)
        sane &= (rows.length > 0) & (rows.length < MAX_COW_BLOCKS)
        first, length = rows.first_block[sane], rows.length[sane]
        stored.add(first, length, np.ones_like(first))
    wrong = compare(stored, references)
    return int(wrong.length[(wrong.stored > 0) & (wrong.found == 0)].sum())


def _losses(devices: list[DeviceRow], facts: Globals, lost: Ranges, damage: Damage) -> list[Loss]:
    losses = list_losses(devices, facts.block_size, LossReason.LOST, lost)
    for reason, addresses in (
        (LossReason.CHECKSUM, damage.sums),
        (LossReason.HASH, damage.contents),
    ):
        ranges = Ranges()
        for part in addresses:
            ranges.add(part, np.ones_like(part))
        losses += list_losses(devices, facts.block_size, reason, ranges)
    return losses
