"""Who still shows what is upstream in the place of blocks that a flush has to overwrite."""

from collections.abc import Iterable, Sequence

import numpy as np

from thincow.block_types import DEVICE_SHIFT
from thincow.engine.block_ranges import BlockRanges
from thincow.engine.device import Device
from thincow.engine.runs import Int64Array
from thincow.store import extents_table
from thincow.store.connection import Connection


def shown_by_devices(
    dirty: BlockRanges, users: Int64Array, lengths: Int64Array, targets: Int64Array
) -> dict[int, int]:
    """Return by device id how many of some upstream blocks the extents of that device show.

    Args:
        dirty: the upstream blocks.
        users: first blocks of extents with their contents upstream.
        lengths: of these extents.
        targets: upstream addresses of the contents of their first blocks.
    """
    counts = {}
    ids = users >> DEVICE_SHIFT
    for device_id in np.unique(ids).tolist():
        chosen = ids == device_id
        used = BlockRanges.union(targets[chosen], lengths[chosen])
        blocks = int(dirty.overlap(used.starts, used.lengths).sum())
        if blocks:
            counts[device_id] = blocks
    return counts


def describe_waiting(
    reader: Connection, devices: Iterable[Device], others: Iterable[Device]
) -> list[str]:
    """Say which dirty blocks of devices cannot be flushed before others, a sentence each."""
    names = {device.id: device.name for device in others}
    sentences = []
    for device in devices:
        bounds = device.first_block, device.end_block
        dirty = BlockRanges.union(*_columns(extents_table.load_runs(reader, *bounds), 2))
        users, lengths, targets = _columns(extents_table.load_users(reader, *bounds), 3)
        for user, blocks in shown_by_devices(dirty, users, lengths, targets).items():
            if user in names:
                sentences.append(
                    f"{blocks} blocks of {device.name} cannot be flushed alone, since "
                    f"{names[user]} still shows what is there: flush {names[user]} too"
                )
    return sentences


def _columns(rows: Sequence[tuple[int, ...]], width: int) -> Int64Array:
    columns: Int64Array = np.array(rows, np.int64).reshape(-1, width).T
    return columns
