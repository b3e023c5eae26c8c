"""Typed SQL of the table `extents`: where the contents of virtual blocks are.

A row never crosses a multiple of the window size, so a window is found by one range of keys.
"""

import apsw
import numpy as np

from thincow.block_types import COW_BASE, MAX_ADDRESS, ZERO, Kind, pack
from thincow.errors import CorruptStoreError
from thincow.store.bulk import (
    Int64Array,
    delete_keys,
    fetch_integers,
    fetch_row,
    flatten_runs,
    insert_rows,
)

_KINDS = frozenset(map(int, Kind))
_COW, _ZERO = int(Kind.COW), int(Kind.ZERO)  # members of an enumeration are slow to compare


def load_window(db: apsw.Connection, first_block: int, values: Int64Array) -> None:
    """Overwrite the parts of `values` that rows cover with their references.

    Args:
        db: a connection.
        first_block: block address of `values[0]`.
        values: one reference a block of the window.

    Raises:
        CorruptStoreError: when a row overlaps another, leaves the window or has no valid target.
    """
    size = len(values)
    rows = fetch_integers(
        db,
        "SELECT first_block, length, kind, target FROM extents "
        "WHERE first_block >= ? AND first_block < ? ORDER BY first_block",
        (first_block, first_block + size),
    )
    cells = values.data
    filled = 0
    for start, length, kind, target in rows:
        begin = start - first_block
        end = begin + length
        is_right = filled <= begin < end <= size and 0 <= target < COW_BASE - length
        if not is_right or kind not in _KINDS:
            raise CorruptStoreError(f"extent at block {start} is damaged: run 'thincow fsck'")
        base = target + COW_BASE if kind == _COW else target
        if kind == _ZERO:
            values[begin:end] = ZERO
        elif length == 1:
            cells[begin] = base  # fragmented windows have many of these
        else:
            values[begin:end] = np.arange(base, base + length, dtype=np.int64)
        filled = end


def apply_changes(
    db: apsw.Connection,
    removed: Int64Array,
    starts: Int64Array,
    lengths: Int64Array,
    references: Int64Array,
) -> None:
    """Delete the rows with keys `removed` and insert or replace one row a run of references."""
    delete_keys(db, "DELETE FROM extents WHERE first_block IN carray(?)", removed)
    if not len(starts):
        return
    insert_rows(
        db,
        "INSERT OR REPLACE INTO extents(first_block, length, kind, target) VALUES ",
        flatten_runs(starts, lengths, references),
        4,
    )


def load_from(
    db: apsw.Connection, first_block: int, end_block: int, window_blocks: int, max_rows: int
) -> list[tuple[int, int, int]]:
    """Return extents that meet a range, as (first block, length, reference), ascending.

    Raises:
        CorruptStoreError: when a row has no valid target.
    """
    rows = fetch_integers(
        db,
        "SELECT first_block, length, kind, target FROM extents "
        "WHERE first_block > ?1 - ?3 AND first_block < ?2 AND first_block + length > ?1 "
        "ORDER BY first_block LIMIT ?4",
        (first_block, end_block, window_blocks, max_rows),
    )
    try:
        return [(first, length, pack(kind, target)) for first, length, kind, target in rows]
    except ValueError as error:
        raise CorruptStoreError(f"an extent is damaged ({error}): run 'thincow fsck'") from error


def load_runs(db: apsw.Connection, first_block: int, end_block: int) -> list[tuple[int, ...]]:
    """Return (first block, length) of the extents that begin in a range, ascending."""
    return list(
        fetch_integers(
            db,
            "SELECT first_block, length FROM extents "
            "WHERE first_block >= ? AND first_block < ? ORDER BY first_block",
            (first_block, end_block),
        )
    )


def load_users(db: apsw.Connection, first_block: int, end_block: int) -> list[tuple[int, int, int]]:
    """Return extents whose content is upstream in a range, as (first block, length, target).

    Scans the table.
    """
    return [
        (first, length, target)
        for first, length, target in fetch_integers(
            db,
            "SELECT first_block, length, target FROM extents "
            "WHERE kind = 0 AND target < ?2 AND target + length > ?1 ORDER BY target",
            (first_block, end_block),
        )
    ]


def count_blocks(db: apsw.Connection, first_block: int, end_block: int) -> int:
    """Return how many blocks of a device are not their own upstream block.

    Args:
        db: a connection.
        first_block: the first of the device.
        end_block: the one after its last.
    """
    row = fetch_row(
        db,
        "SELECT coalesce(sum(length), 0) FROM extents WHERE first_block >= ? AND first_block < ?",
        (first_block, end_block),
    )
    assert row is not None
    return int(row[0])


def has_any(db: apsw.Connection, first_block: int, end_block: int) -> bool:
    """Tell whether any block of a device is not its own upstream block; as `count_blocks`."""
    query = "SELECT 1 FROM extents WHERE first_block >= ? AND first_block < ? LIMIT 1"
    return fetch_row(db, query, (first_block, end_block)) is not None


def last_before(db: apsw.Connection, first_block: int, end_block: int) -> int | None:
    """Return the first block of the last extent that begins in a range; None without any."""
    row = fetch_row(
        db,
        "SELECT max(first_block) FROM extents WHERE first_block >= ? AND first_block < ?",
        (first_block, end_block),
    )
    return None if row is None else row[0]


def is_referenced(
    db: apsw.Connection, address: int, window_blocks: int, own_end: int = MAX_ADDRESS
) -> bool:
    """Tell whether any virtual block, that one included, has its content at an upstream block.

    Blocks of the device from `own_end` on do not show their own place. Scans the table unless the
    block is its own content: for rare questions only.
    """
    first = address - address % window_blocks
    own = fetch_row(
        db,
        "SELECT 1 FROM extents WHERE first_block >= ?1 AND first_block <= ?2 "
        "AND first_block + length > ?2",
        (first, address),
    )
    if own is None and address < own_end:
        return True
    other = fetch_row(
        db,
        "SELECT 1 FROM extents WHERE kind = 0 AND target <= ?1 AND target + length > ?1 LIMIT 1",
        (address,),
    )
    return other is not None
