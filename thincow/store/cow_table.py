"""Typed SQL of the table `cow`: reference counts of the blocks in `cowdata`.

Rows are runs of equal counts above zero that never cross a multiple of the window size; a block
without a row is free.
"""

import apsw

from thincow.errors import CorruptStoreError
from thincow.store.bulk import (
    Int64Array,
    damaged,
    delete_keys,
    fetch_integers,
    fetch_row,
    flatten,
    insert_rows,
)


def load_window(db: apsw.Connection, first_block: int, values: Int64Array) -> None:
    """Overwrite the parts of `values` that rows cover with their counts.

    Raises:
        CorruptStoreError: when a row overlaps another or leaves the window.
    """
    size = len(values)
    rows = fetch_integers(
        db,
        "SELECT first_block, length, refs FROM cow "
        "WHERE first_block >= ? AND first_block < ? ORDER BY first_block",
        (first_block, first_block + size),
    )
    filled = 0
    for start, length, refs in rows:
        begin = start - first_block
        end = begin + length
        if begin < filled or not begin < end <= size or refs < 1:
            raise CorruptStoreError(f"count of COW block {start} is damaged: run 'thincow fsck'")
        values[begin:end] = refs
        filled = end


def apply_changes(
    db: apsw.Connection,
    removed: Int64Array,
    starts: Int64Array,
    lengths: Int64Array,
    counts: Int64Array,
) -> None:
    """Delete the rows with keys `removed` and insert or replace one row a run of equal counts."""
    delete_keys(db, "DELETE FROM cow WHERE first_block IN carray(?)", removed)
    insert_rows(
        db,
        "INSERT OR REPLACE INTO cow(first_block, length, refs) VALUES ",
        flatten(starts, lengths, counts),
        3,
    )


def end_block(db: apsw.Connection) -> int:
    """Return the number of the block after the last used one."""
    rows = fetch_integers(
        db, "SELECT first_block + length FROM cow ORDER BY first_block DESC LIMIT 1"
    )
    return rows[0][0] if rows else 0


def gaps(
    db: apsw.Connection, begin: int, end: int, max_rows: int
) -> tuple[list[tuple[int, int]], int]:
    """Find free runs at or after `begin` and before `end`.

    Looks at no more than `max_rows` rows. A row may have grown across the place where an earlier
    call ended.

    Returns:
        The runs as (first block, length in blocks), and where to go on (`end` when done).

    Raises:
        CorruptStoreError: when rows overlap.
    """
    found = []
    before = fetch_integers(
        db,
        "SELECT first_block + length FROM cow WHERE first_block < ? "
        "ORDER BY first_block DESC LIMIT 1",
        (begin,),
    )
    if before:
        begin = max(begin, min(before[0][0], end))
    rows = fetch_integers(
        db,
        "SELECT first_block, length FROM cow WHERE first_block >= ? AND first_block < ? "
        "ORDER BY first_block LIMIT ?",
        (begin, end, max_rows),
    )
    for start, length in rows:
        if start < begin or length < 1:
            raise damaged(f"the count of COW block {start} cannot be")
        if start > begin:
            found.append((begin, start - begin))
        begin = start + length
    if len(rows) < max_rows:
        if begin < end:
            found.append((begin, end - begin))
        begin = end
    return found, begin


def totals(db: apsw.Connection) -> tuple[int, int]:
    """Return the number of used blocks and the sum of their counts. Scans the table."""
    row = fetch_row(db, "SELECT coalesce(sum(length), 0), coalesce(sum(length * refs), 0) FROM cow")
    assert row is not None
    return row[0], row[1]
