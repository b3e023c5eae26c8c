"""Arithmetic on runs of numbers, as arrays with one row of start and end a run. Pure functions."""

from collections.abc import Iterable

import numpy as np

from thincow.engine.free_runs import Run
from thincow.engine.runs import BoolArray, Int64Array, distinct


def rows_of(runs: Iterable[Run]) -> Int64Array:
    """Return runs (start, length) as rows (start, end)."""
    rows = np.array(list(runs), np.int64).reshape(-1, 2)
    rows[:, 1] += rows[:, 0]
    return rows


def union(rows: Int64Array) -> Int64Array:
    """Return rows in any order, which may overlap, as disjoint ascending ones."""
    if len(rows) < 2:
        return rows
    rows = rows[rows[:, 0].argsort(kind="stable")]
    ends = np.maximum.accumulate(rows[:, 1])
    heads = np.concatenate(([True], rows[1:, 0] > ends[:-1]))
    return np.column_stack((rows[heads, 0], ends[np.append(heads[1:], True)]))


def divide(rows: Int64Array, by: Int64Array) -> tuple[list[Run], list[Run]]:
    """Return runs (start, length) of what of `rows` is not in `by`, and of what is; disjoint both.

    Both are disjoint and ascending.
    """
    points = distinct(np.concatenate((rows.ravel(), by.ravel())))
    starts, lengths = points[:-1], np.diff(points)
    is_wanted, is_inside = _covers(rows, starts), _covers(by, starts)
    outside, inside = (
        list(zip(starts[chosen].tolist(), lengths[chosen].tolist(), strict=True))
        for chosen in (is_wanted & ~is_inside, is_wanted & is_inside)
    )
    return outside, inside


def overlaps(rows: Int64Array, start: int, end: int) -> bool:
    """Tell whether any of disjoint ascending rows meets a range."""
    low = int(rows[:, 1].searchsorted(start, "right"))
    return low < len(rows) and bool(rows[low, 0] < end)


def _covers(rows: Int64Array, numbers: Int64Array) -> BoolArray:
    """Tell which numbers lie in one of the rows."""
    if not len(rows):
        return np.zeros(len(numbers), np.bool_)
    place = np.maximum(rows[:, 0].searchsorted(numbers, "right") - 1, 0)
    inside: BoolArray = (rows[place, 0] <= numbers) & (numbers < rows[place, 1])
    return inside
