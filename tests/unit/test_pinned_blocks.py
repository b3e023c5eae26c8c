"""Pinned blocks against a plain count of pins for each block."""

import random
from collections import Counter

import pytest

from thincow.engine.pinned_blocks import PinnedBlocks

SIZE = 40


def blocks_of(runs):
    return [block for start, length in runs for block in range(start, start + length)]


@pytest.mark.parametrize("seed", range(30))
def test_freed_blocks_wait_for_the_last_pin(seed):
    choose = random.Random(seed)
    pinned, pins, counts, waiting = PinnedBlocks(), [], Counter(), set()
    for _ in range(200):
        if choose.random() < 0.4:
            runs = [
                (choose.randrange(SIZE), choose.randint(1, 6)) for _ in range(choose.randint(1, 3))
            ]
            pinned.pin(runs)
            pins.append(runs)
            counts.update(blocks_of(runs))
        elif pins and choose.random() < 0.6:
            runs = pins.pop(choose.randrange(len(pins)))
            counts.subtract(blocks_of(runs))
            expected = {block for block in waiting if not counts[block]}
            assert sorted(blocks_of(pinned.unpin(runs))) == sorted(expected)
            waiting -= expected
        else:
            start = choose.randrange(SIZE)
            freed = [
                block
                for block in range(start, start + choose.randint(1, 8))
                if block not in waiting
            ]
            runs = [(block, 1) for block in freed] or [(SIZE + 10, 2)]
            choose.shuffle(runs)
            now = blocks_of(pinned.pass_freed(runs))
            assert sorted(now) == sorted(block for block in blocks_of(runs) if not counts[block])
            waiting |= set(blocks_of(runs)) - set(now)
        assert bool(pinned) == bool(pins)
