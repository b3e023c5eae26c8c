"""Statements that carry many rows: the calling thread needs the GIL once, not once a row."""

from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import apsw
import numpy as np
import numpy.typing as npt

from thincow.block_types import COW_BASE, ZERO, unpack
from thincow.errors import CorruptStoreError

Int64Array = npt.NDArray[np.int64]

_ROWS_A_STATEMENT: Final = (500, 25, 3, 1)

FEW_ROWS: Final = 8
"""Up to here arrays cost more than loops."""


def fetch_rows(
    db: apsw.Connection, statement: str, values: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    """Return all rows of a query at once, so that no statement stays open.

    Raises:
        CorruptStoreError: when the database is damaged.
    """
    try:
        rows: list[tuple[Any, ...]] = db.execute(statement, values).fetchall()
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
        raise damaged(str(error)) from error
    return rows


def fetch_integers(
    db: apsw.Connection, statement: str, values: Sequence[object] = ()
) -> list[tuple[int, ...]]:
    """Return all rows of a query whose values must be integers.

    A damaged page may hold values of types that the schema forbids.

    Raises:
        CorruptStoreError: when the database is damaged.
    """
    rows = fetch_rows(db, statement, values)
    if not set(map(type, chain.from_iterable(rows))) <= {int}:
        raise damaged("a number is none")
    return rows


def damaged(reason: str) -> CorruptStoreError:
    """Return the error that says that the database is damaged."""
    return CorruptStoreError(f"metadata.db is damaged ({reason}): run 'thincow fsck'")


def fetch_row(
    db: apsw.Connection, statement: str, values: Sequence[object] = ()
) -> tuple[Any, ...] | None:
    """Return the first row of a query, None when there is none."""
    rows = fetch_rows(db, statement, values)
    return rows[0] if rows else None


def insert_rows(
    db: apsw.Connection, head: str, values: Sequence[int], columns: int, tail: str = ""
) -> None:
    """Run `head` (up to and including VALUES) for rows given as one flat sequence of integers.

    `tail` follows the rows. Only few statements per table are ever made, so that the statement
    cache keeps them.
    """
    start = 0
    row = "(" + ",".join("?" * columns) + ")"
    for rows in _ROWS_A_STATEMENT:
        width = rows * columns
        if len(values) - start < width:
            continue
        statement = head + ",".join([row] * rows) + tail
        while len(values) - start >= width:
            db.execute(statement, values[start : start + width])
            start += width


def flatten(*columns: Int64Array) -> list[int]:
    """Return the values of columns of equal length row by row."""
    if len(columns[0]) <= FEW_ROWS:
        return list(chain.from_iterable(zip(*(column.tolist() for column in columns), strict=True)))
    rows = np.empty((len(columns[0]), len(columns)), np.int64)
    for index, column in enumerate(columns):
        rows[:, index] = column
    flat: list[int] = rows.ravel().tolist()
    return flat


def flatten_runs(starts: Int64Array, lengths: Int64Array, references: Int64Array) -> list[int]:
    """Return runs of references row by row: first block, length, `kind`, `target`."""
    if len(starts) > FEW_ROWS:
        return flatten(starts, lengths, *split_references(references))
    flat: list[int] = []
    for start, length, reference in zip(
        starts.tolist(), lengths.tolist(), references.tolist(), strict=True
    ):
        flat += (start, length, *unpack(reference))
    return flat


def split_references(references: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the columns `kind` and `target` of references."""
    kinds = (references >= COW_BASE).view(np.int8) + 2 * (references == ZERO).view(np.int8)
    targets = references & (COW_BASE - 1)
    targets[references == ZERO] = 0
    return kinds.astype(np.int64), targets


def delete_keys(db: apsw.Connection, statement: str, keys: Int64Array) -> None:
    """Run `statement`, which has one `carray(?)`, for an array of keys; nothing when empty."""
    if len(keys) == 1:
        # Binding an array costs more than the deletion of a single row.
        db.execute(statement.replace("IN carray(?)", "= ?"), (int(keys[0]),))
    elif len(keys):
        db.execute(statement, (apsw.carray(np.ascontiguousarray(keys)),))
