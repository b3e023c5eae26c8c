"""Finds out facts about a store that are missing or wrong in its table `globals`.

Every derived value is as good as a recorded one: the block size is only taken from contents that
match hash entries, and the size of windows may be chosen anew, because a repair writes all rows.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from thincow.block_types import COW_BASE, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, Kind
from thincow.engine.count_check import StepFunction
from thincow.engine.header_check import sane_globals
from thincow.engine.map_check import MAX_COW_BLOCKS
from thincow.engine.options import Tuning
from thincow.engine.stored_blocks import StoredBlocks
from thincow.errors import CorruptStoreError
from thincow.store.columns import HashColumns
from thincow.store.cow_file import COW_NAME
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.label import Label
from thincow.store.snapshot import Snapshot

_SAMPLES: Final = 256


def derive_globals(snapshot: Snapshot, label: Label | None, disk: Disk, data_dir: Path) -> Globals:
    """Return the facts for a repaired store: recorded ones where they are sane.

    Raises:
        CorruptStoreError: when the block size cannot be found out.
    """
    known = sane_globals(snapshot)
    labelled = (label.store_id, label.generation) if label is not None else (uuid.uuid4().hex, 0)

    def number(key: str, derived: Callable[[], int]) -> int:
        value = known.get(key)
        return value if isinstance(value, int) else derived()

    return Globals(
        store_id=str(known.get("store_id", labelled[0])),
        block_size=number("block_size", lambda: _find_block_size(snapshot, disk, data_dir)),
        window_blocks=number("window_blocks", lambda: Tuning().window_blocks),
        generation=max(number("generation", lambda: 0), labelled[1]) + 1,
        clean=False,
        hash_entries=0,
        checksum_bits=number("checksum_bits", lambda: _find_checksum_bits(snapshot)),
    )


def contents_fit(snapshot: Snapshot, block_size: int, disk: Disk, data_dir: Path) -> bool:
    """Tell whether `cowdata` holds what some hash entries say, if there are any."""
    entries = _sample(snapshot)
    return not len(entries.hash) or _matches(entries, block_size, disk, data_dir) > 0


def _find_checksum_bits(snapshot: Snapshot) -> int:
    return next((row.bits for row in snapshot.checksum_rows() if row.bits in (8, 16, 32, 64)), 0)


def _find_block_size(snapshot: Snapshot, disk: Disk, data_dir: Path) -> int:
    entries = _sample(snapshot)
    size = MIN_BLOCK_SIZE
    while size <= MAX_BLOCK_SIZE:
        if _matches(entries, size, disk, data_dir):
            return size
        size *= 2
    raise CorruptStoreError("the block size is lost, and no content tells it")


def _sample(snapshot: Snapshot) -> HashColumns:
    """Return some entries of blocks in `cowdata` that are in use."""
    live = StepFunction()
    for extents in snapshot.extents():
        first, length = extents.target, extents.length
        sane = (extents.kind == Kind.COW) & (first >= 0) & (first < MAX_COW_BLOCKS)
        sane &= (length > 0) & (length < MAX_COW_BLOCKS)
        live.add(first[sane], length[sane], np.ones(np.count_nonzero(sane), np.int64))
    for rows in snapshot.hashes():
        chosen = (rows.kind == Kind.COW) & (live.values_at(rows.target) > 0)
        chosen = np.flatnonzero(chosen)[:_SAMPLES]
        if len(chosen):
            return HashColumns(*(column[chosen] for column in rows))
    return HashColumns(*(np.empty(0, np.int64) for _ in range(3)))


def _matches(entries: HashColumns, block_size: int, disk: Disk, data_dir: Path) -> int:
    with _open_cowdata(disk, data_dir, block_size) as blocks:
        found = 0
        for value, target in zip(entries.hash.tolist(), entries.target.tolist(), strict=True):
            hashes = blocks.hashes(COW_BASE + target, 1)
            found += bool(hashes.known[0]) and int(hashes.values[0]) == value
        return found


@contextmanager
def _open_cowdata(disk: Disk, data_dir: Path, block_size: int) -> Iterator[StoredBlocks]:
    fd = disk.open(data_dir / COW_NAME, os.O_RDONLY)
    try:
        yield StoredBlocks(disk, fd, {}, block_size)
    finally:
        disk.close(fd)
