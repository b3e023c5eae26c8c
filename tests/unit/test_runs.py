"""Rows of arrays: encoded, and the changes from one array to another, against naive ones."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thincow.block_types import COW_BASE, ZERO
from thincow.engine.runs import (
    CountCodec,
    ReferenceCodec,
    RunCodec,
    distinct,
    encode,
    merge_numbers,
    row_changes,
    split,
)

SIZE = 16
FIRST = (1 << 40) + 5 * SIZE
CODECS = {"references": ReferenceCodec(), "counts": CountCodec()}

Row = tuple[int, int, int]

references = st.one_of(
    st.just(ZERO),
    st.integers(FIRST, FIRST + SIZE),  # near identity
    st.integers(COW_BASE, COW_BASE + 4),
    st.integers(1 << 40, (1 << 40) + 3),
)


@st.composite
def arrays(draw: st.DrawFn, kind: str) -> np.ndarray:
    """Make an array of runs, as they occur in windows."""
    values: list[int] = []
    while len(values) < SIZE:
        length = draw(st.integers(1, SIZE))
        if kind == "counts":
            values += [draw(st.integers(0, 3))] * length
            continue
        shape = draw(st.sampled_from(["identity", "one", "run"]))
        start = FIRST + len(values) if shape == "identity" else draw(references)
        step = 0 if start == ZERO or shape == "one" else 1
        values += [start + step * index for index in range(length)]
    return np.array(values[:SIZE], np.int64)


@st.composite
def changes(draw: st.DrawFn, kind: str) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Make an array, and another that differs only in a range."""
    old, other = draw(arrays(kind)), draw(arrays(kind))
    low = draw(st.integers(0, SIZE - 1))
    high = draw(st.integers(low + 1, SIZE))
    new = old.copy()
    new[low:high] = other[low:high]
    return old, new, low, high


def naive_rows(kind: str, values: np.ndarray) -> list[Row]:
    """Encode value by value."""
    rows: list[Row] = []
    for block, value in enumerate(values.tolist(), FIRST):
        if rows:
            start, length, head = rows[-1]
            grows = kind == "references" and head != ZERO
            if value == (head + length if grows else head):
                rows[-1] = (start, length + 1, head)
                continue
        rows.append((block, 1, value))
    if kind == "references":
        return [row for row in rows if row[2] != row[0]]
    return [row for row in rows if row[2] != 0]


def as_rows(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[Row]:
    return list(zip(*(column.tolist() for column in rows), strict=True))


def decode(codec: RunCodec, rows: list[Row]) -> np.ndarray:
    values = codec.default(FIRST, SIZE)
    for start, length, head in rows:
        grows = isinstance(codec, ReferenceCodec) and head != ZERO
        at = start - FIRST
        values[at : at + length] = [head + index * grows for index in range(length)]
    return values


@pytest.mark.parametrize("kind", CODECS)
@given(st.data())
def test_encode_gives_the_rows_of_a_naive_encoder(kind, data):
    values = data.draw(arrays(kind))
    rows = as_rows(encode(CODECS[kind], FIRST, values))
    assert rows == naive_rows(kind, values)
    assert (decode(CODECS[kind], rows) == values).all()


@pytest.mark.parametrize("kind", CODECS)
@settings(max_examples=500)
@given(st.data())
def test_row_changes_make_the_rows_of_the_new_array(kind, data):
    old, new, low, high = data.draw(changes(kind))
    rows = {row[0]: row for row in naive_rows(kind, old)}
    removed, upserted = row_changes(CODECS[kind], FIRST, old, new, low, high)
    before = dict(rows)
    for start in removed.tolist():
        del rows[start]  # every removed row is there
    for row in as_rows(upserted):
        assert before.get(row[0]) != row, "a row that did not change is written"
        rows[row[0]] = row
    assert sorted(rows.values()) == naive_rows(kind, new)


@pytest.mark.parametrize("kind", CODECS)
@given(st.data())
def test_row_changes_of_nothing_are_none(kind, data):
    old, _, low, high = data.draw(changes(kind))
    removed, upserted = row_changes(CODECS[kind], FIRST, old, old.copy(), low, high)
    assert len(removed) == len(upserted.starts) == 0


@pytest.mark.parametrize("kind", CODECS)
def test_row_changes_of_a_window_of_one_block(kind):
    codec = CODECS[kind]
    old, new = codec.default(FIRST, 1), np.array([2], np.int64)
    removed, upserted = row_changes(codec, FIRST, old, new, 0, 1)
    assert removed.tolist() == []
    assert as_rows(upserted) == [(FIRST, 1, 2)]
    removed, upserted = row_changes(codec, FIRST, new, old, 0, 1)
    assert removed.tolist() == [FIRST]
    assert as_rows(upserted) == []


def test_split_starts_with_zero():
    codec = ReferenceCodec()
    assert split(codec, np.array([7], np.int64)).tolist() == [0]
    assert split(codec, np.array([7, 8, ZERO, ZERO, 1, 2], np.int64)).tolist() == [0, 2, 4]


@given(st.sets(st.integers(0, 40)))
def test_merge_numbers_gives_maximal_runs(numbers):
    runs = merge_numbers(np.array(sorted(numbers), np.int64))
    assert {start + index for start, length in runs for index in range(length)} == numbers
    assert all(start + length < after for (start, length), (after, _) in pairwise(runs))


@pytest.mark.parametrize("numbers", [[], [3], [3, 3], [5, 1, 5, -2, 1], list(range(9))])
def test_distinct_numbers_come_once_and_ascending(numbers):
    values = np.array(numbers, np.int64)
    assert distinct(values).tolist() == sorted(set(numbers))
    assert values.tolist() == numbers
