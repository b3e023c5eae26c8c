"""Entries of one epoch: whatever way they came, the newest of each hash is found and committed."""

import random

import numpy as np
import pytest

from thincow.engine.hash_filter import signed
from thincow.engine.staged_entries import Columns, HashRun, StagedEntries

ZERO = 0xC77B3ABB6F87ACD9


def committed(entries: StagedEntries) -> dict[int, int]:
    hashes, references = entries.freeze().ascending()
    assert (hashes[1:] > hashes[:-1]).all()
    return dict(zip(hashes.view(np.uint64).tolist(), references.tolist(), strict=True))


def check(entries: StagedEntries, expected: dict[int, int], absent: list[int]) -> None:
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
        values = chance.sample(pool, min(len(pool), chance.choice([1, 3, 15, 16, 40, 900])))
        first = chance.randrange(1 << 50)
        places = range(first, first + len(values))
        kind = chance.choice(["note", "list", "run", "columns", "one", "discard", "look"])
        if kind == "discard":
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
        elif kind == "run":
            entries.note_run(HashRun(signed(values), first))
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
