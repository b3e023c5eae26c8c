"""Holds: what a view of an earlier commit refers to is neither reused nor given back."""

import random
from pathlib import Path

import numpy as np
import pytest

from tests.unit.test_cow_store import BLOCK, Bench, numbers
from thincow.engine.held_blocks import Hold


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_freed_block_waits_for_the_end_of_a_hold(bench: Bench) -> None:
    bench.take(3)
    bench.commit()
    hold = bench.cow.held.begin()
    bench.drop(1)
    bench.commit()
    assert bench.take(1) == [3]
    assert bench.cow.held.kept_blocks == 1
    hold.release()
    assert bench.take(1) == [1]
    hold.release()
    assert bench.cow.held.kept_blocks == 0


def test_held_tail_is_not_cut_off(bench: Bench) -> None:
    bench.take(8)
    bench.commit()
    hold = bench.cow.held.begin()
    bench.drop(*range(8))
    bench.commit()
    bench.cow.punch(None)
    assert bench.cow.end_block == 8
    hold.release()
    bench.cow.punch(None)
    assert bench.cow.end_block == 0


def test_block_handed_out_after_the_view_is_used_again(bench: Bench) -> None:
    bench.take(2)
    bench.commit()
    hold = bench.cow.held.begin()
    hold.taken("backup")
    for _ in range(10):
        (block,) = bench.take(1)
        bench.commit()
        bench.drop(block)
        bench.commit()
        assert block == 2
    hold.release()


def test_block_handed_out_before_the_view_is_kept(bench: Bench) -> None:
    hold = bench.cow.held.begin()
    assert bench.take(1) == [0]
    bench.commit()
    hold.taken("backup")
    bench.drop(0)
    bench.commit()
    assert bench.take(1) == [1]
    hold.release()


def test_second_hold_protects_its_own_view(bench: Bench) -> None:
    first = bench.cow.held.begin()
    first.taken("backup")
    bench.take(1)
    bench.commit()
    second = bench.cow.held.begin()
    second.taken("check")
    assert bench.cow.held.purposes == ["backup", "check"]
    bench.drop(0)
    bench.commit()
    first.release()
    assert bench.take(1) == [1]
    second.release()
    assert bench.take(1) == [0]


def test_free_blocks_of_earlier_mounts_are_not_looked_for_during_a_hold(tmp_path: Path) -> None:
    bench = Bench(tmp_path, end=8)
    assert bench.cow.scan_range == (0, 8)
    hold = bench.cow.held.begin()
    assert bench.cow.scan_range is None
    hold.release()
    assert bench.cow.scan_range == (0, 8)


def test_end_of_all_holds_frees_everything(bench: Bench) -> None:
    bench.take(2)
    bench.commit()
    holds = [bench.cow.held.begin() for _ in range(2)]
    bench.drop(0, 1)
    bench.commit()
    bench.cow.held.end_all()
    assert not bench.cow.held
    assert bench.cow.reusable_blocks == 2
    for hold in holds:
        hold.release()


@pytest.mark.parametrize("seed", range(20))
def test_no_view_ever_loses_a_block(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)
    live: list[int] = []
    views: dict[Hold, set[int]] = {}
    unready: list[Hold] = []
    for _ in range(300):
        action = chance.randrange(7)
        if action <= 1:
            new = numbers(bench.cow.allocate(chance.randrange(1, 5)))
            assert not set().union(*views.values()) & set(new)
            bench.cow.add_references(np.array(new, np.int64))
            live += new
        elif action == 2 and live:
            chance.shuffle(live)
            gone = [live.pop() for _ in range(chance.randrange(1, len(live) + 1))]
            bench.drop(*gone)
        elif action == 3:
            bench.commit()
            bench.cow.punch(chance.choice((None, 1)))
        elif action == 4 and len(views) + len(unready) < 3:
            unready.append(bench.cow.held.begin())
            bench.commit()
        elif action == 5 and unready:
            # The view is taken of the last commit, whatever that is by now.
            hold = unready.pop()
            views[hold] = set(np.flatnonzero(bench.durable).tolist())
            hold.taken("check")
        elif action == 6 and views:
            hold = chance.choice(list(views))
            del views[hold]
            hold.release()
        held = set().union(*views.values())
        assert all(block < bench.cow.end_block for block in held)
        punched = bench.disk.size(bench.file.fd) // BLOCK
        assert all(block < punched for block in held)
    for hold in [*views, *unready]:
        hold.release()
    bench.commit()
    assert bench.cow.reusable_blocks + len(live) == bench.cow.end_block
