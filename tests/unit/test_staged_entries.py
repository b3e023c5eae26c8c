"""Entries of one epoch: whatever way they came, the newest of each hash is found and committed."""

import random

import numpy as np
import pytest

from thincow.engine.entry_columns import Columns
from thincow.engine.hash_filter import signed
from thincow.engine.staged_entries import StagedEntries

ZERO = 0xC77B3ABB6F87ACD9


def committed(entries: StagedEntries) -> dict[int, int]:
    hashes, references = entries.freeze().ascending()
    assert (hashes[1:] > hashes[:-1]).all()
    return dict(zip(hashes.view(np.uint64).tolist(), references.tolist(), strict=True))


def check(entries: StagedEntries, expected: dict[int, int], absent: list[int]) -> None:
    entries.make_ready()
    values = [*expected, *absent]
    assert entries.among(values, signed(values)) == expected
    assert {value: entries.get(value) for value in expected} == expected
    assert all(entries.get(value) is None for value in absent)
    assert committed(entries) == expected


@pytest.mark.parametrize("seed", range(20))
def test_entries_are_as_in_a_dictionary(seed):
    chance = random.Random(seed)
    # Few hashes, so that they come again; close to each other in some seeds, so that chains grow.
    pool = [chance.getrandbits(64) >> (40 if seed % 3 == 0 else 0) for _ in range(3000)] + [ZERO]
    entries, expected = StagedEntries(ZERO), {}
    for _ in range(chance.randint(1, 60)):
        values = chance.sample(pool, min(len(pool), chance.choice([1, 3, 63, 64, 90, 900])))
        first = chance.randrange(1 << 50)
        places = range(first, first + len(values))
        kind = chance.choice(["note", "list", "columns", "one", "discard", "look"])
        if kind == "discard":
            entries.make_ready()
            entries.discard(values)
            for value in values:
                expected.pop(value, None)
            continue
        if kind == "look":
            found = {value: expected[value] for value in values if value in expected}
            assert entries.among(values, signed(values)) == found
            continue
        if kind == "note":
            entries.note(values, places)
        elif kind == "list":
            entries.note(values, list(places))
        elif kind == "columns":
            entries.note_columns(Columns(signed(values), np.array(places)))
        else:
            for value, place in zip(values, places, strict=True):
                if value != ZERO:
                    entries.note_one(value, place)
        expected |= zip(values, places, strict=True)
        expected.pop(ZERO, None)
    assert len(entries) >= len(expected)
    check(entries, expected, [value for value in pool if value not in expected])


def test_one_content_may_come_again_and_again():
    """To link such entries one after the other would take minutes."""
    entries = StagedEntries(ZERO)
    entries.note([5, 9] * 200_000, range(1000, 401_000))
    check(entries, {5: 400_998, 9: 400_999}, [6])
    entries.note([9] * 100_000, range(100_000))
    check(entries, {5: 400_998, 9: 99_999}, [6])
    entries.discard([9])
    check(entries, {5: 400_998}, [9])


def test_one_content_may_come_between_lookups():
    """Entries that newer ones hide leave their chains, or all that ask would go past them."""
    chance = random.Random(2)
    entries, expected = StagedEntries(ZERO), {}
    for number in range(300):
        other = chance.getrandbits(64)
        entries.note([5] * 200 + [other], range(number * 1000, number * 1000 + 201))
        expected |= {5: number * 1000 + 199, other: number * 1000 + 200}
        assert entries.get(5) == number * 1000 + 199
    check(entries, expected, [6])
    heads, _hashes, _references, after = entries._cells
    links, at = 0, heads[0]
    while at != -1:
        links, at = links + 1, after[at]
    assert links < 10
    entries.discard([5])
    del expected[5]
    check(entries, expected, [5, 6])


def test_no_lookup_waits_for_more_than_some_entries(monkeypatch):
    monkeypatch.setattr("thincow.engine.staged_entries._AT_A_TIME", 100)
    values = list(range(1, 1001))
    entries = StagedEntries(ZERO)
    entries.note(values, range(1000))
    assert entries.get(100) == 99
    assert entries.get(999) is None
    assert committed(entries) == dict(zip(values, range(1000), strict=True))
    entries.make_ready()
    check(entries, dict(zip(values, range(1000), strict=True)), [2000])


@pytest.mark.parametrize("count", [0, 1, 70, 99, 100, 101])
def test_the_oldest_entries_are_split_off(count):
    chance = random.Random(3)
    values = [chance.getrandbits(64) for _ in range(100)]
    entries = StagedEntries(ZERO)
    entries.note(values[:80], range(80))
    entries.get(values[0])
    for value, place in zip(values[80:], range(80, 100), strict=True):
        entries.note_one(value, place)
    oldest, others = entries.split(count)
    check(oldest, dict(zip(values[:count], range(count), strict=False)), values[count:])
    check(others, dict(zip(values[count:], range(count, 100), strict=False)), values[:count])


def test_single_entries_move_to_arrays_when_they_are_many():
    chance = random.Random(4)
    values = [chance.getrandbits(64) for _ in range(10_000)]
    entries = StagedEntries(ZERO)
    for at, value in enumerate(values[:5000]):
        entries.note_one(value, at)
    for at in range(5000, 10_000, 10):
        entries.note(values[at : at + 10], range(at, at + 10))
    assert len(entries.freeze().singles) < 5000
    check(entries, dict(zip(values, range(10_000), strict=True)), [6])


def test_what_was_frozen_stays_as_it_was():
    chance = random.Random(1)
    values = [chance.getrandbits(64) for _ in range(500)]
    entries = StagedEntries(ZERO)
    entries.note(values[:100], range(100))
    assert entries.get(values[0]) == 0
    entries.note(values[100:], range(100, 500))
    frozen = entries.freeze()
    assert entries.get(values[499]) == 499
    hashes, references = frozen.together()
    assert hashes.tolist() == signed(values).tolist()
    assert references.tolist() == list(range(500))
    assert len(frozen) == 500


def test_zeros_are_left_out():
    entries = StagedEntries(ZERO)
    entries.note([ZERO] * 30, range(30))
    entries.note([ZERO, 1], [7, 8])
    assert len(entries) == 1
    check(entries, {1: 8}, [ZERO])
