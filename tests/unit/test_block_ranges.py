"""Sets of ranges against plain sets."""

import random

import numpy as np
import pytest

from thincow.engine.block_ranges import BlockRanges

END = 60


def random_runs(chance: random.Random) -> list[tuple[int, int]]:
    return [
        (chance.randrange(END), chance.randrange(1, 9)) for _ in range(chance.choice((0, 1, 3, 9)))
    ]


def blocks_of(runs: list[tuple[int, int]]) -> set[int]:
    return {block for start, length in runs for block in range(start, start + length)}


@pytest.mark.parametrize("seed", range(50))
def test_ranges_behave_as_sets_do(seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    some, others = random_runs(chance), random_runs(chance)
    left, right = BlockRanges.of(some), BlockRanges.of(others)
    expected = [
        (left, blocks_of(some)),
        (left.plus(right), blocks_of(some) | blocks_of(others)),
        (left.minus(right), blocks_of(some) - blocks_of(others)),
    ]
    for found, blocks in expected:
        assert blocks_of(found.runs()) == blocks
        assert found.blocks == len(blocks)
        assert (found.starts[1:] > found.ends[:-1]).all()
        assert (found.lengths > 0).all()
        addresses = np.arange(END + 20)
        assert found.contains(addresses).tolist() == [at in blocks for at in addresses.tolist()]
        start, limit = chance.randrange(END), chance.randrange(1, 12)
        absent = [at for at in range(start, start + limit) if at in blocks]
        assert found.absent_run(start, limit) == (absent[0] - start if absent else limit)
