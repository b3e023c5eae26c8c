import random

import pytest

from thincow.engine import seen_blocks
from thincow.engine.seen_blocks import SeenBlocks


def runs_of(numbers: list[int]) -> list[int]:
    return [start + index for start, length in numbers for index in range(length)]


@pytest.mark.parametrize("seed", range(10))
def test_seen_blocks_are_a_set(seed):
    print(f"seed {seed}")
    choose = random.Random(seed)
    base = choose.choice((0, (1 << 40) - 5, (1 << 40) + 4090, 3 << 40))
    seen, model = SeenBlocks(), set()
    for _ in range(100):
        start = base + choose.choice((0, 4000)) + choose.randrange(200)
        length = choose.choice((1, 1, 7, 150, 9000))
        wanted = range(start, start + length)
        unseen = seen.unseen(start, length)
        assert runs_of(unseen) == [number for number in wanted if number not in model]
        if choose.random() < 0.6:
            if length == 1:
                seen.add_one(start)
            else:
                seen.add(start, length)
            model.update(wanted)
        probe = base + choose.randrange(14_000)
        assert (probe in seen) == (probe in model)


def test_seen_blocks_forget_before_they_grow_too_large(monkeypatch):
    monkeypatch.setattr(seen_blocks, "_MAX_GROUPS", 2)
    seen = SeenBlocks()
    for device in (1, 2, 3):
        seen.add(device << 40, 10)
    assert 1 << 40 not in seen
    assert (2 << 40) + 9 in seen
    assert (3 << 40) + 9 in seen
