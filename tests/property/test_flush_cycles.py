"""Ranges of blocks and cycles among moved blocks against plain models."""

import random

import numpy as np
import pytest

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.flush_cycles import Cycles, find_cycles

CASES = 400


def array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int64)


def cycles_of(places: dict[int, int]) -> Cycles:
    """Count cycles by walking from every block."""
    found: set[frozenset[int]] = set()
    for block in places:
        walk = [block]
        while (following := places.get(walk[-1])) is not None and following not in walk:
            walk.append(following)
        if following == block:
            found.add(frozenset(walk))
    return Cycles(len(found), sum(map(len, found)))


def runs_of(places: dict[int, int], chance: random.Random) -> list[tuple[int, int, int]]:
    """Cut a map of blocks into runs, some of them shorter than they could be."""
    runs: list[tuple[int, int, int]] = []
    for block in sorted(places):
        target = places[block]
        if runs and chance.random() < 0.9:
            start, length, first = runs[-1]
            if (start + length, first + length) == (block, target):
                runs[-1] = (start, length + 1, first)
                continue
        runs.append((block, 1, target))
    chance.shuffle(runs)
    return runs


def move(chance: random.Random) -> dict[int, int]:
    """Return where the contents of blocks are, of which some are moved in ranges."""
    size = chance.choice((1, 2, 8, 60))
    places = {block: block for block in range(size)}
    for _ in range(chance.randrange(6)):
        kind = chance.randrange(5)
        length = chance.randint(1, size)
        start, target = (chance.randint(0, size - length) for _ in range(2))
        if kind == 0:
            places |= {start + at: target + at for at in range(length)}
        elif kind == 1:
            places |= {at: (at + target) % size for at in range(size)}
        elif kind == 2:
            old = dict(places)
            places |= {start + at: old.get(target + at, 0) for at in range(length)}
            places |= {target + at: old.get(start + at, 0) for at in range(length)}
        elif kind == 3:
            for at in range(start, start + length):
                places.pop(at, None)
        else:
            places |= {start + at: chance.randrange(2 * size) for at in range(length)}
    return places


@pytest.mark.parametrize("unit", [1, 7])
def test_cycles_are_those_of_a_walk(unit: int) -> None:
    for seed in range(CASES):
        chance = random.Random(seed)
        places = move(chance)
        runs = [
            (start * unit, length * unit, target * unit)
            for start, length, target in runs_of(places, chance)
        ]
        wanted = cycles_of({block: at for block, at in places.items() if block != at})
        columns = [array([run[column] for run in runs]) for column in range(3)]
        found = find_cycles(*columns)
        assert found == Cycles(wanted.number * unit, wanted.blocks * unit), f"seed {seed}"


def test_devices_that_change_places_are_few_units() -> None:
    device = 1 << 40
    starts = array([device, 2 * device])
    lengths = array([1 << 28, 1 << 28])
    assert find_cycles(starts, lengths, starts[::-1]) == Cycles(1 << 28, 1 << 29)


def test_too_many_mixed_blocks_are_not_counted() -> None:
    size = 1000
    rotated = array([0, 1]), array([1, size - 1]), array([size - 1, 0])
    assert find_cycles(*rotated, max_blocks=100) is None
    assert find_cycles(*rotated, max_blocks=size) == Cycles(1, size)


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_sets(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(20):
        sets = []
        for _ in range(2):
            runs = [
                (chance.randrange(40), chance.randint(1, 8)) for _ in range(chance.randrange(6))
            ]
            sets.append(runs)
        union, others = sets
        members = {block for start, length in union for block in range(start, start + length)}
        ranges = BlockRanges.union(*(array([run[at] for run in union]) for at in range(2)))
        shown = [
            block
            for start, end in zip(ranges.starts.tolist(), ranges.ends.tolist(), strict=True)
            for block in range(start, end)
        ]
        assert shown == sorted(members)
        assert ranges.blocks == len(members)
        assert all(ranges.starts[1:] > ranges.ends[:-1])
        starts, lengths = (array([run[at] for run in others]) for at in range(2))
        inside = [
            [block for block in range(start, start + length) if block in members]
            for start, length in others
        ]
        assert ranges.overlap(starts, lengths).tolist() == [len(blocks) for blocks in inside]
        cut: list[list[int]] = [[] for _ in others]
        for start, length, origin in zip(
            *(part.tolist() for part in ranges.cut(starts, lengths)), strict=True
        ):
            assert length > 0
            cut[origin] += range(start, start + length)
        assert cut == inside
