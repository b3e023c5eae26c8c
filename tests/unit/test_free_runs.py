"""The set of free runs against a plain set of numbers."""

import random

import pytest

from thincow.engine import free_runs
from thincow.engine.free_runs import FreeRuns

SIZE = 60


def runs_of(numbers: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and sum(runs[-1]) == number:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return runs


def numbers_of(runs: list[tuple[int, int]]) -> list[int]:
    return [start + index for start, length in runs for index in range(length)]


@pytest.fixture(params=[(4096, 64), (3, 2)], ids=["roomy", "tiny"], autouse=True)
def limits(request, monkeypatch):
    recent, many = request.param
    monkeypatch.setattr(free_runs, "_MAX_RECENT", recent)
    monkeypatch.setattr(free_runs, "_MANY", many)


@pytest.mark.parametrize("seed", range(20))
def test_free_runs_are_a_set(seed):
    print(f"seed {seed}")
    choose = random.Random(seed)
    free, model = FreeRuns(), set()
    for _ in range(400):
        start, length = choose.randrange(SIZE), choose.randint(1, 8)
        wanted = set(range(start, start + length))
        action = choose.choice(("add", "add", "all", "take", "remove", "overlap", "last"))
        if action == "add" and not wanted & model:
            free.add(start, length)
            model |= wanted
        elif action == "all":
            absent = runs_of(set(choose.sample(range(SIZE), 20)) - model)
            choose.shuffle(absent)
            free.add_all(absent)
            model |= set(numbers_of(absent))
        elif action == "take":
            taken = numbers_of(free.take(length))
            assert taken == sorted(model)[:length]
            model -= set(taken)
        elif action == "remove":
            assert free.remove(start, length) == len(wanted & model)
            model -= wanted
        elif action == "overlap":
            assert free.overlap(start, length) == len(wanted & model)
        elif action == "last":
            end = max(model, default=0) + 1
            expected = runs_of(model)[-1] if model else None
            assert free.last_run_before(end) == expected
            assert free.last_run_before(end + 1) is None
        if choose.random() < 0.5:  # else what is recent stays apart
            assert list(free) == runs_of(model)
            assert free.lowest(3) == runs_of(model)[:3]
            assert len(free) == len(runs_of(model))
        assert free.blocks == len(model)


@pytest.mark.parametrize(("start", "length"), [(4, 1), (2, 3), (5, 5), (0, 20)])
def test_free_runs_do_not_take_a_block_twice(start, length):
    free = FreeRuns()
    free.add(4, 2)
    with pytest.raises(AssertionError, match="freed twice"):
        free.add(start, length)


def test_free_runs_take_from_several_runs():
    free = FreeRuns()
    for start in (10, 0, 20):
        free.add(start, 3)
    assert free.take(7) == [(0, 3), (10, 3), (20, 1)]
    assert list(free) == [(21, 2)]
    assert free.take(100) == [(21, 2)]
    assert free.take(1) == []
