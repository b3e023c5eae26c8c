"""Typed SQL of the table `flushing`: upstream ranges whose contents a flush made unknown."""

from collections.abc import Iterable

import apsw

from thincow.store.bulk import damaged, fetch_integers, insert_rows


def load(db: apsw.Connection) -> list[tuple[int, int]]:
    """Return the ranges as (first block address, length in blocks), ascending.

    Raises:
        CorruptStoreError: when they overlap or cannot be.
    """
    rows = fetch_integers(db, "SELECT first_block, length FROM flushing ORDER BY first_block")
    end = 0
    for first, length in rows:
        if first < end or length < 1:
            raise damaged("the table flushing holds what cannot be")
        end = first + length
    return [(first, length) for first, length in rows]


def replace(db: apsw.Connection, ranges: Iterable[tuple[int, int]]) -> None:
    """Replace all ranges."""
    db.execute("DELETE FROM flushing")
    flat = [number for run in ranges for number in run]
    insert_rows(db, "INSERT INTO flushing(first_block, length) VALUES ", flat, 2)
