"""The map of references, with the counts that follow it, against plain lists."""

import random
from pathlib import Path

import numpy as np
import pytest

from thincow.block_types import COW_BASE, ZERO
from thincow.engine.block_map import BlockMap
from thincow.engine.cow_store import CowStore
from thincow.engine.runs import CountCodec, ReferenceCodec
from thincow.engine.window_cache import WindowCache
from thincow.errors import CorruptStoreError
from thincow.store.cow_file import CowFile
from thincow.store.disk import Disk

FIRST = 1 << 40
BLOCKS = 40


class Bench:
    """A map of one device over nothing durable."""

    def __init__(self, directory: Path, window_blocks: int = 4) -> None:
        (directory / "cowdata").touch()
        self.broken_window: int | None = None
        file = CowFile(Disk(), directory, read_only=False)
        counts = WindowCache(self._load_counts, window_blocks, 100)
        references = WindowCache(ReferenceCodec().default, window_blocks, 100)
        self.cow = CowStore(file, counts, 512, 0, None)
        self.map = BlockMap(references, self.cow)

    def _load_counts(self, first_block: int, length: int) -> np.ndarray:
        if first_block == self.broken_window:
            raise CorruptStoreError("window is broken")
        return CountCodec().default(first_block, length)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def expand(runs: list[tuple[int, int]]) -> list[int]:
    return [
        reference if reference == ZERO else reference + index
        for reference, length in runs
        for index in range(length)
    ]


def test_map_is_identity_at_first(bench):
    assert bench.map.runs(FIRST, BLOCKS) == [(FIRST, BLOCKS)]
    assert bench.map.reference(FIRST + 5) == FIRST + 5


def test_runs_are_maximal_and_cross_windows(bench):
    bench.map.assign(FIRST + 2, [(ZERO, 7), (FIRST + 100, 6)])
    assert bench.map.runs(FIRST, 20) == [
        (FIRST, 2),
        (ZERO, 7),
        (FIRST + 100, 6),
        (FIRST + 15, 5),
    ]


def test_references_to_cow_blocks_are_counted(bench):
    bench.cow.allocate(4)
    bench.map.assign(FIRST, [(COW_BASE, 4)])
    bench.map.assign(FIRST + 10, [(COW_BASE + 1, 1), (ZERO, 2), (COW_BASE, 2)])
    assert [bench.cow.count(block) for block in range(4)] == [2, 3, 1, 1]


def test_same_references_again_change_nothing(bench):
    bench.cow.allocate(2)
    bench.map.assign(FIRST, [(COW_BASE, 2), (ZERO, 1)])
    bench.map.windows.freeze()
    bench.map.assign(FIRST, [(COW_BASE, 2), (ZERO, 1)])
    assert bench.map.windows.dirty_windows == 0
    assert [bench.cow.count(block) for block in range(2)] == [1, 1]


def test_reference_that_moves_is_not_freed_in_between(bench):
    """Blocks exchange their places: counts pass through no 0."""
    bench.cow.allocate(8)
    bench.map.assign(FIRST, [(COW_BASE, 8)])
    bench.map.assign(FIRST, [(COW_BASE + 4, 4), (COW_BASE, 4)])
    assert [bench.cow.count(block) for block in range(8)] == [1] * 8
    assert bench.cow.reusable_blocks == 0


def test_failure_changes_nothing(bench):
    bench.cow.allocate(9)
    bench.broken_window = 8
    bench.map.assign(FIRST, [(COW_BASE, 4)])
    with pytest.raises(CorruptStoreError):
        bench.map.assign(FIRST, [(COW_BASE + 4, 4), (COW_BASE + 8, 1)])
    assert bench.map.runs(FIRST, 5) == [(COW_BASE, 4), (FIRST + 4, 1)]
    assert [bench.cow.count(block) for block in range(8)] == [1] * 4 + [0] * 4


@pytest.mark.parametrize("seed", range(15))
def test_map_and_counts_do_what_lists_do(tmp_path, seed):
    print(f"seed {seed}")
    choose = random.Random(seed)
    bench = Bench(tmp_path, window_blocks=choose.choice((1, 4, 64)))
    model = list(range(FIRST, FIRST + BLOCKS))
    for _ in range(200):
        start = choose.randrange(BLOCKS)
        runs: list[tuple[int, int]] = []
        while not runs or choose.random() < 0.4:
            length = choose.randint(1, 6)
            live = sorted({reference for reference in model if reference >= COW_BASE})
            kind = choose.choice(("zero", "own", "other", "new", "old"))
            if kind == "zero":
                runs.append((ZERO, length))
            elif kind == "own":
                runs.append((FIRST + start + sum(part for _, part in runs), length))
            elif kind == "other":
                runs.append((FIRST + choose.randrange(BLOCKS - length), length))
            elif kind == "new":
                runs += [(COW_BASE + block, part) for block, part in bench.cow.allocate(length)]
            elif live:
                runs.append((choose.choice(live), 1))
        references = expand(runs)
        if start + len(references) > BLOCKS:
            bench.cow.give_back(
                [
                    (reference - COW_BASE, 1)
                    for reference in references
                    if reference >= COW_BASE and not bench.cow.count(reference - COW_BASE)
                ]
            )
            continue
        bench.map.assign(FIRST + start, runs)
        model[start : start + len(references)] = references
        assert expand(bench.map.runs(FIRST, BLOCKS)) == model
        assert bench.map.references(FIRST, BLOCKS).tolist() == model
        assert [bench.map.reference(FIRST + block) for block in range(BLOCKS)] == model
        cow = [reference - COW_BASE for reference in model if reference >= COW_BASE]
        for block in range(bench.cow.end_block):
            assert bench.cow.count(block) == cow.count(block)
        free = bench.cow.end_block - len(set(cow))
        assert bench.cow.reusable_blocks == free
