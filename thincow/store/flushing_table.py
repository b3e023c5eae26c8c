"""Typed SQL of the table `flushing`: upstream ranges whose contents a flush made unknown."""

from collections.abc import Iterable

import apsw

from thincow.store.bulk import fetch_integers, insert_rows


def load(db: apsw.Connection) -> list[tuple[int, int]]:
    """Return the ranges as (first block address, length in blocks), ascending."""
    rows = fetch_integers(db, "SELECT first_block, length FROM flushing ORDER BY first_block")
    return [(first, length) for first, length in rows]


def replace(db: apsw.Connection, ranges: Iterable[tuple[int, int]]) -> None:
    """Replace all ranges."""
    db.execute("DELETE FROM flushing")
    flat = [number for run in ranges for number in run]
    insert_rows(db, "INSERT INTO flushing(first_block, length) VALUES ", flat, 2)
