from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thincow.engine import count_check
from thincow.engine.count_check import StepFunction, compare

BLOCKS = 24

Runs = list[tuple[int, int, int]]

runs = st.lists(
    st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 8), st.integers(1, 3)), max_size=12
)


def steps(chunks: list[Runs]) -> StepFunction:
    function = StepFunction()
    for chunk in chunks:
        columns = np.array(chunk, np.int64).reshape(-1, 3).T
        function.add(*columns)
    return function


def model(chunks: list[Runs]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for chunk in chunks:
        for first, length, value in chunk:
            for block in range(first, first + length):
                counts[block] += value
    return counts


@given(st.lists(runs, max_size=4), st.lists(runs, max_size=4))
def test_compare_agrees_with_counting_one_by_one(stored: list[Runs], found: list[Runs]) -> None:
    wrong = compare(steps(stored), steps(found))
    said = {
        first + i: (stored_count, found_count)
        for first, length, stored_count, found_count in zip(
            *(column.tolist() for column in wrong), strict=True
        )
        for i in range(length)
    }
    a, b = model(stored), model(found)
    assert said == {k: (a[k], b[k]) for k in a.keys() | b.keys() if a[k] != b[k]}


@given(st.lists(runs, max_size=4))
def test_values_agree_with_counting_one_by_one(chunks: list[Runs]) -> None:
    counts = model(chunks)
    values = steps(chunks).values_at(np.arange(BLOCKS + 10))
    assert values.tolist() == [counts[block] for block in range(BLOCKS + 10)]


@given(st.lists(runs, max_size=8))
def test_compacting_changes_nothing(chunks: list[Runs]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(count_check, "_COMPACT_AT", 3)
        compacted = steps(chunks)
    assert len(compare(compacted, steps(chunks)).length) == 0


def test_adjacent_runs_leave_two_changes() -> None:
    function = steps([[(4 * i, 4, 1) for i in range(1000)]])
    positions, changes = function.changes()
    assert positions.tolist() == [0, 4000]
    assert changes.tolist() == [1, -1]


def test_wrong_runs_are_as_long_as_can_be() -> None:
    wrong = compare(steps([[(0, 10, 1)]]), steps([[(2, 3, 1), (5, 2, 1)]]))
    assert wrong.first_block.tolist() == [0, 7]
    assert wrong.length.tolist() == [2, 3]
