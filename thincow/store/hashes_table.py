"""Typed SQL of the table `hashes`: where a content was seen. A hint, never proof."""

import apsw
import numpy as np
import numpy.typing as npt

from thincow.block_types import COW_BASE, ZERO, Kind
from thincow.store.bulk import (
    Int64Array,
    fetch_integers,
    fetch_row,
    flatten,
    insert_rows,
    split_references,
)

_LARGEST = (1 << 63) - 1


def lookup(db: apsw.Connection, value: int) -> int | None:
    """Return the reference recorded for one signed hash."""
    rows = fetch_integers(db, "SELECT kind, target FROM hashes WHERE hash = ?", (value,))
    if not rows:
        return None
    ((kind, target),) = rows
    return target + COW_BASE if kind == Kind.COW else target if kind == Kind.UPSTREAM else ZERO


def lookup_many(db: apsw.Connection, values: Int64Array) -> dict[int, int]:
    """Return signed hash -> reference for those of an array of signed hashes that are known."""
    rows = fetch_integers(
        db,
        "SELECT h.hash, h.kind, h.target FROM carray(?) AS c JOIN hashes AS h ON h.hash = c.value",
        (apsw.carray(np.ascontiguousarray(values)),),
    )
    return {
        found: target + COW_BASE if kind == Kind.COW else target
        for found, kind, target in rows
        if kind != Kind.ZERO
    }


def prefixes_from(db: apsw.Connection, first: int, max_rows: int) -> tuple[int | None, Int64Array]:
    """Read the upper 32 bits of up to `max_rows` signed hashes from `first` on, in order.

    As one text, which SQLite puts together without the GIL.

    Returns:
        The last of these hashes, None when there are no more, and the prefixes, signed.
    """
    row = fetch_row(
        db,
        "SELECT count(*), max(hash), group_concat(hash >> 32) FROM "
        "(SELECT hash FROM hashes WHERE hash >= ? ORDER BY hash LIMIT ?)",
        (first, max_rows),
    )
    assert row is not None
    count, last, prefixes = row
    if not count:
        return None, np.empty(0, np.int64)
    return (last if count == max_rows else None), np.fromstring(prefixes, np.int64, sep=",")


def insert_new_cow(db: apsw.Connection, value: int, reference: int) -> int:
    """Insert one entry of a place in the COW store, as `insert_new` does; return how many."""
    db.execute(
        "INSERT OR IGNORE INTO hashes(hash, kind, target) VALUES (?, 1, ?)",
        (value, reference - COW_BASE),
    )
    return db.changes()


def insert_new(
    db: apsw.Connection,
    values: Int64Array,
    references: Int64Array,
    perhaps_there: npt.NDArray[np.bool_] | None = None,
) -> int:
    """Insert entries, sorted by hash, whose hash has none yet; most are not even `perhaps_there`.

    Of those that have one, an upstream place replaces a place in the COW store: it costs nothing
    to keep and cannot be freed.

    Returns:
        How many were inserted.
    """
    upstream = references < COW_BASE
    inserted = 0
    if upstream.any():
        asked = values[upstream if perhaps_there is None else upstream & perhaps_there]
        inserted += _insert_upstream(db, values[upstream], references[upstream], asked)
    if not upstream.all():
        before = db.total_changes()
        _insert(db, "INSERT OR IGNORE", values[~upstream], references[~upstream])
        inserted += db.total_changes() - before
    return inserted


def _insert_upstream(
    db: apsw.Connection, values: Int64Array, references: Int64Array, asked: Int64Array
) -> int:
    """Insert or replace as `insert_new` says; only hashes that are `asked` for may be there."""
    row: tuple[int, ...] | None = (0,)
    if len(asked):
        row = fetch_row(
            db,
            "SELECT count(*) FROM carray(?) AS c JOIN hashes AS h ON h.hash = c.value",
            (apsw.carray(np.ascontiguousarray(asked)),),
        )
    assert row is not None
    insert_rows(
        db,
        "INSERT INTO hashes(hash, kind, target) VALUES ",
        flatten(values, *split_references(references)),
        3,
        " ON CONFLICT(hash) DO UPDATE SET kind = excluded.kind, target = excluded.target "
        "WHERE kind = 1",
    )
    return len(values) - int(row[0])


def replace(db: apsw.Connection, values: Int64Array, references: Int64Array) -> None:
    """Overwrite entries, sorted by hash, that are known to exist."""
    _insert(db, "INSERT OR REPLACE", values, references)


def evict(db: apsw.Connection, start: int, excess: int) -> int:
    """Delete `excess` entries, those that follow the hash `start` in (circular) order of hashes.

    Contents say nothing about hashes, so this is as good as random and touches few pages.

    Returns:
        The number of deleted entries.
    """
    deleted = 0
    for low, high in ((start, _LARGEST), (-_LARGEST - 1, start)):
        if deleted < excess:
            db.execute(
                "DELETE FROM hashes WHERE hash IN (SELECT hash FROM hashes "
                "WHERE hash BETWEEN ? AND ? ORDER BY hash LIMIT ?)",
                (low, high, excess - deleted),
            )
            deleted += db.changes()
    return deleted


def drop_overwritten(db: apsw.Connection) -> int:
    """Delete entries of upstream blocks that a flush overwrites: those with an extent of their own.

    Scans the table. Returns the number of deleted entries.
    """
    before = db.total_changes()
    db.execute(
        "DELETE FROM hashes WHERE kind = 0 AND (SELECT first_block + length FROM extents "
        "WHERE first_block <= hashes.target ORDER BY first_block DESC LIMIT 1) > hashes.target"
    )
    return db.total_changes() - before


def drop_upstream(db: apsw.Connection, first_block: int, end_block: int) -> int:
    """Delete entries of a range of upstream blocks. Scans the table; returns how many."""
    before = db.total_changes()
    db.execute(
        "DELETE FROM hashes WHERE kind = 0 AND target >= ? AND target < ?", (first_block, end_block)
    )
    return db.total_changes() - before


def count(db: apsw.Connection) -> int:
    """Return the number of entries. Scans the table."""
    row = fetch_row(db, "SELECT count(*) FROM hashes")
    assert row is not None
    return int(row[0])


def _insert(db: apsw.Connection, verb: str, values: Int64Array, references: Int64Array) -> None:
    head = f"{verb} INTO hashes(hash, kind, target) VALUES "
    insert_rows(db, head, flatten(values, *split_references(references)), 3)
