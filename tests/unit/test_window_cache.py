"""Windows and their epochs, against plain arrays of what is durable, frozen and running."""

import random

import numpy as np
import pytest

from thincow.engine.window_cache import FrozenWindow, WindowCache

WINDOW = 4
WINDOWS = 6
BLOCKS = WINDOW * WINDOWS


class Table:
    """Durable values, and how often windows were loaded."""

    def __init__(self) -> None:
        self.values = np.zeros(BLOCKS, np.int64)
        self.loads = 0

    def load(self, first_block: int, length: int) -> np.ndarray:
        self.loads += 1
        return self.values[first_block : first_block + length].copy()

    def store(self, frozen: list[FrozenWindow]) -> None:
        for part in frozen:
            first = part.window.first_block
            assert (self.values[first : first + WINDOW] == part.base).all()
            outside = np.ones(WINDOW, bool)
            outside[part.low : part.high] = False
            assert (part.base[outside] == part.values[outside]).all()
            self.values[first : first + WINDOW] = part.values


def change(cache: WindowCache, block: int, value: int) -> None:
    window = cache.get(block >> cache.shift)
    at = block & cache.mask
    cache.change(window, at, at + 1)
    window.values[at] = value
    assert window.cells[at] == value


def contents(cache: WindowCache) -> list[int]:
    return [cache.get(block >> cache.shift).cells[block & cache.mask] for block in range(BLOCKS)]


@pytest.mark.parametrize("seed", range(20))
def test_windows_hold_what_was_put_into_them_whatever_commits_do(seed):
    print(f"seed {seed}")
    choose = random.Random(seed)
    table = Table()
    cache = WindowCache(table.load, WINDOW, capacity=choose.choice((0, 1, 3)))
    running = [0] * BLOCKS
    frozen: list[FrozenWindow] | None = None
    at_freeze: list[int] = []
    for _ in range(300):
        action = choose.random()
        if action < 0.6:
            block, value = choose.randrange(BLOCKS), choose.randrange(100)
            running[block] = value
            change(cache, block, value)
        elif action < 0.7:
            cache.trim()
        elif action < 0.8 and frozen is None:
            at_freeze = running.copy()
            frozen = cache.freeze()
            assert cache.dirty_windows == 0
        elif action < 0.9 and frozen is not None:
            if choose.random() < 0.5:
                table.store(frozen)
                assert table.values.tolist() == at_freeze
                cache.settle(frozen)
            else:
                cache.merge_back(frozen)
            frozen = None
        elif frozen is None:
            assert contents(cache) == running
    if frozen is not None:
        cache.merge_back(frozen)
    table.store(cache.freeze())
    assert table.values.tolist() == running


def test_window_is_loaded_once_while_it_is_cached():
    table = Table()
    cache = WindowCache(table.load, WINDOW, capacity=2)
    for _ in range(3):
        cache.get(0)
        cache.get(1)
        cache.trim()
    assert table.loads == 2
    cache.get(2)
    cache.trim()
    assert cache.get(2) is cache.get(2)
    assert table.loads == 3
    cache.get(0)  # the one used longest ago had to go
    assert table.loads == 4


def test_window_with_changes_is_never_dropped():
    table = Table()
    cache = WindowCache(table.load, WINDOW, capacity=0)
    change(cache, 0, 5)
    change(cache, 4, 6)
    first, second = cache.get(0), cache.get(1)
    frozen = cache.freeze()
    cache.trim()
    assert cache.get(0) is first
    change(cache, 4, 7)
    table.store(frozen)
    cache.settle(frozen)
    cache.trim()
    assert cache.get(1) is second
    assert cache.get(0) is not first
    assert cache.get(0).cells[0] == 5


def test_frozen_values_do_not_change():
    table = Table()
    cache = WindowCache(table.load, WINDOW, capacity=2)
    change(cache, 1, 5)
    (frozen,) = cache.freeze()
    change(cache, 1, 6)
    change(cache, 3, 7)
    assert frozen.base.tolist() == [0, 0, 0, 0]
    assert frozen.values.tolist() == [0, 5, 0, 0]
    assert (frozen.low, frozen.high) == (1, 2)


def test_failed_epoch_is_compared_with_the_durable_values_again():
    table = Table()
    cache = WindowCache(table.load, WINDOW, capacity=2)
    change(cache, 1, 5)
    frozen = cache.freeze()
    change(cache, 3, 7)
    cache.merge_back(frozen)
    (merged,) = cache.freeze()
    assert merged.base.tolist() == [0, 0, 0, 0]
    assert merged.values.tolist() == [0, 5, 0, 7]
    assert (merged.low, merged.high) == (1, 4)
