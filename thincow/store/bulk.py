"""Statements that carry many rows: the calling thread needs the GIL once, not once a row."""

from collections.abc import Sequence
from typing import Final

import apsw
import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

_ROWS_A_STATEMENT: Final = (500, 25, 1)


def insert_rows(db: apsw.Connection, head: str, values: Sequence[int], columns: int) -> None:
    """Run `head` (up to and including VALUES) for rows given as one flat sequence of integers.

    Only three statements per table are ever made, so that the statement cache keeps them.
    """
    start = 0
    row = "(" + ",".join("?" * columns) + ")"
    for rows in _ROWS_A_STATEMENT:
        width = rows * columns
        if len(values) - start < width:
            continue
        statement = head + ",".join([row] * rows)
        while len(values) - start >= width:
            db.execute(statement, values[start : start + width])
            start += width


def delete_keys(db: apsw.Connection, statement: str, keys: Int64Array) -> None:
    """Run `statement`, which has one `carray(?)`, for an array of keys; nothing when empty."""
    if len(keys) == 1:
        # Binding an array costs more than the deletion of a single row.
        db.execute(statement.replace("IN carray(?)", "= ?"), (int(keys[0]),))
    elif len(keys):
        db.execute(statement, (apsw.carray(np.ascontiguousarray(keys)),))
