"""Allocation: no COW block is handed out, punched or cut off too early (invariant 3)."""

import errno
import random
from pathlib import Path

import numpy as np
import pytest

from tests.support.scripted_disk import ScriptedDisk
from thincow.engine.cow_store import CowStore
from thincow.engine.free_runs import Run
from thincow.engine.hole_punch import HolePunch
from thincow.engine.window_cache import FrozenWindow, WindowCache
from thincow.errors import CorruptStoreError, NoSpaceError
from thincow.store.cow_file import CowFile

BLOCK = 512
WINDOW = 4


class Bench:
    """A COW store over plain durable counts."""

    def __init__(self, directory: Path, max_blocks: int | None = None, end: int = 0) -> None:
        (directory / "cowdata").write_bytes(bytes(end * BLOCK))
        self.disk = ScriptedDisk()
        self.durable = np.zeros(4096, np.int64)
        self.file = CowFile(self.disk, directory, read_only=False)
        cache = WindowCache(self._load, WINDOW, capacity=1)
        self.cow = CowStore(self.file, cache, BLOCK, end, max_blocks)
        self._frozen: tuple[list[FrozenWindow], list[Run]] | None = None

    def _load(self, first_block: int, length: int) -> np.ndarray:
        return self.durable[first_block : first_block + length].copy()

    def take(self, count: int) -> list[int]:
        """Allocate blocks and refer to each once."""
        blocks = numbers(self.cow.allocate(count))
        self.cow.add_references(np.array(blocks, np.int64))
        return blocks

    def drop(self, *blocks: int) -> None:
        self.cow.drop_references(np.array(blocks, np.int64))

    def freeze(self) -> None:
        self._frozen = self.cow.freeze()

    def settle(self) -> None:
        assert self._frozen is not None
        for part in self._frozen[0]:
            first = part.window.first_block
            self.durable[first : first + WINDOW] = part.values
        self.cow.settle(*self._frozen)
        self._frozen = None

    def merge_back(self) -> None:
        assert self._frozen is not None
        self.cow.merge_back(*self._frozen)
        self._frozen = None

    def commit(self) -> None:
        self.freeze()
        self.settle()


def numbers(runs: list[Run]) -> list[int]:
    return [start + index for start, length in runs for index in range(length)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_block_is_used_again_only_after_its_release_is_durable(bench):
    assert bench.take(3) == [0, 1, 2]
    bench.commit()
    bench.drop(1)
    assert bench.take(1) == [3]  # the durable map still refers to block 1
    bench.freeze()
    assert bench.take(1) == [4]
    bench.settle()
    assert bench.take(1) == [1]


def test_block_allocated_and_released_in_one_epoch_is_used_again_at_once(bench):
    assert bench.take(2) == [0, 1]
    bench.drop(0)
    assert bench.take(1) == [0]


def test_block_of_a_frozen_epoch_is_not_fresh_any_more(bench):
    assert bench.take(2) == [0, 1]
    bench.freeze()
    bench.drop(0)
    assert bench.take(1) == [2]
    bench.settle()
    assert bench.take(1) == [3]  # released in the epoch that runs, allocated in the one before
    bench.commit()
    assert bench.take(1) == [0]


def test_block_released_in_a_failed_epoch_waits_for_the_next(bench):
    bench.take(2)
    bench.commit()
    bench.drop(0)
    bench.freeze()
    bench.merge_back()
    assert bench.take(1) == [2]
    bench.commit()
    assert bench.take(1) == [0]


def test_block_is_free_when_its_last_reference_goes(bench):
    bench.take(1)
    bench.cow.add_references((0, 1))
    bench.drop(0)
    assert bench.cow.count(0) == 1
    assert bench.take(1) == [1]
    bench.drop(0)
    assert bench.take(1) == [0]


def test_references_may_repeat_in_one_change(bench):
    bench.take(6)
    bench.cow.add_references(np.array([1, 5, 1, 4], np.int64))
    assert [bench.cow.count(block) for block in range(6)] == [1, 3, 1, 1, 2, 2]
    bench.drop(1, 1, 1, 0)
    assert [bench.cow.count(block) for block in range(6)] == [0, 0, 1, 1, 2, 2]
    assert bench.cow.reusable_blocks == 2


def test_count_never_falls_below_zero(bench):
    bench.take(1)
    with pytest.raises(CorruptStoreError, match="counts of references are wrong"):
        bench.drop(0, 0)


def test_pinned_block_is_not_used_again(bench):
    bench.take(3)
    bench.cow.pin([(0, 2)])
    bench.cow.pin([(1, 1)])
    bench.drop(0, 1, 2)
    assert bench.take(2) == [2, 3]
    bench.cow.unpin([(0, 2)])
    assert bench.take(2) == [0, 4]
    bench.cow.unpin([(1, 1)])
    assert bench.take(1) == [1]


def test_pinned_block_is_neither_punched_nor_cut_off(bench):
    bench.take(16)
    bench.commit()
    bench.cow.pin([(12, 1)])
    bench.drop(*range(16))
    bench.commit()
    bench.cow.punch(None)
    assert [(call.offset, call.length) for call in bench.disk.of("punch")] == [(0, 8 * BLOCK)]
    assert bench.cow.end_block == 13
    bench.cow.unpin([(12, 1)])
    bench.cow.punch(None)
    assert bench.cow.end_block == 0


def test_blocks_are_not_used_while_they_are_punched(bench):
    bench.take(16)
    bench.commit()
    bench.drop(*range(8), *range(12, 15))
    bench.commit()
    punch = bench.cow.begin_punch(None)
    assert bench.take(2) == [16, 17]
    assert bench.cow.reusable_blocks == 11
    punch.run()
    assert [(call.offset, call.length) for call in bench.disk.of("punch")] == [(0, 8 * BLOCK)]
    assert bench.take(1) == [18]
    bench.cow.end_punch(punch)
    assert bench.take(12) == [*range(8), 12, 13, 14, 19]


def test_punch_leaves_out_what_comes_after_the_end(bench):
    bench.take(12)
    bench.commit()
    bench.drop(*range(8, 12))
    bench.commit()
    punch = bench.cow.begin_punch(None)
    assert bench.take(2) == [12, 13]
    punch.run()
    assert [(call.offset, call.length) for call in bench.disk.of("punch")] == [
        (8 * BLOCK, 4 * BLOCK)
    ]


def test_punch_is_awaited_when_there_is_no_other_room(tmp_path):
    bench = Bench(tmp_path, max_blocks=16)
    bench.take(16)
    bench.commit()
    bench.drop(*range(8))
    bench.commit()
    punch = bench.cow.begin_punch(None)
    assert bench.take(8) == [*range(8)]
    assert len(bench.disk.of("punch")) == 1
    assert not bench.cow.is_punching
    punch.run()
    bench.cow.end_punch(punch)
    assert len(bench.disk.of("punch")) == 1
    assert bench.cow.reusable_blocks == 0


def test_live_run_ends_at_a_block_without_references(bench):
    bench.take(10)
    bench.drop(7)
    assert bench.cow.live_run(0, 10) == 7
    assert bench.cow.live_run(0, 5) == 5
    assert bench.cow.live_run(7, 3) == 0
    assert bench.cow.live_run(8, 2) == 2


def test_blocks_given_back_are_handed_out_again(bench):
    runs = bench.cow.allocate(3)
    bench.cow.give_back(runs)
    assert numbers(bench.cow.allocate(3)) == [0, 1, 2]


def test_quota_is_kept_and_nothing_is_lost_at_it(tmp_path):
    bench = Bench(tmp_path, max_blocks=4)
    assert bench.take(3) == [0, 1, 2]
    bench.drop(1)
    with pytest.raises(NoSpaceError, match="4 blocks"):
        bench.take(3)
    assert bench.take(2) == [1, 3]
    with pytest.raises(NoSpaceError):
        bench.take(1)


def test_space_is_claimed_before_blocks_are_handed_out(bench):
    bench.disk.fail("claim", "cowdata", errno.ENOSPC)
    with pytest.raises(NoSpaceError):
        bench.take(1)
    bench.disk.mend()
    assert bench.take(1) == [0]
    assert bench.disk.of("claim", name="cowdata")[-1].length >= BLOCK


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_blocks_are_not_lost_when_more_cannot_be_claimed(bench, code):
    bench.take(2)
    bench.drop(0, 1)
    with bench.disk.failing("claim", "cowdata", code):
        bench.file.truncate(2 * BLOCK)  # nothing is claimed ahead any more
        with pytest.raises((NoSpaceError, OSError)):
            bench.cow.allocate(3)
    assert bench.cow.reusable_blocks == 2
    assert bench.take(2) == [0, 1]


def test_only_whole_pages_are_punched(bench):
    bench.take(32)
    bench.commit()
    bench.drop(*range(3, 21))
    bench.commit()
    bench.cow.punch(None)
    (call,) = bench.disk.of("punch")
    assert (call.offset, call.length) == (8 * BLOCK, 8 * BLOCK)
    bench.drop(0, 1, 2)  # completes the first page
    bench.commit()
    bench.cow.punch(None)
    call = bench.disk.of("punch")[-1]
    assert (call.offset, call.length) == (0, 8 * BLOCK)


def test_punch_that_fails_leaves_the_blocks_reusable(bench):
    bench.take(16)
    bench.commit()
    bench.drop(*range(8))
    bench.commit()
    with bench.disk.failing("punch", "cowdata"), pytest.raises(OSError, match="Input/output"):
        bench.cow.punch(None)
    assert bench.take(8) == list(range(8))


def test_free_blocks_of_earlier_mounts_are_found_bit_by_bit(tmp_path):
    bench = Bench(tmp_path, end=12)
    bench.durable[:12] = [1, 0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1]
    assert bench.cow.scan_range == (0, 12)
    bench.cow.add_scanned([(1, 2), (5, 1)], 7, holding=False)
    assert bench.take(4) == [1, 2, 5, 12]
    bench.drop(3, 8)
    bench.commit()
    assert bench.take(2) == [3, 13]  # block 8 is left for the scan
    bench.cow.add_scanned([(8, 3)], 12, holding=False)
    assert bench.cow.scan_range is None
    assert bench.take(4) == [8, 9, 10, 14]


def begin_or_end_punch(
    cow: CowStore, choose: random.Random, punch: HolePunch | None
) -> HolePunch | None:
    """End a punch that others were served beside, or begin one; some begin and end at once."""
    if punch is not None:
        punch.run()
        cow.end_punch(punch)
    elif choose.random() < 0.5:
        return cow.begin_punch(choose.choice((None, 1)))
    else:
        cow.punch(choose.choice((None, 1)))
    return None


@pytest.mark.parametrize("seed", range(25))
def test_no_block_is_handed_out_early_whatever_happens(tmp_path, seed):
    print(f"seed {seed}")
    choose = random.Random(seed)
    bench = Bench(tmp_path, max_blocks=60)
    cow = bench.cow
    running: dict[int, int] = {}
    frozen: dict[int, int] | None = None
    durable: dict[int, int] = {}
    punch: HolePunch | None = None
    pins: list[int] = []
    for _ in range(400):
        action = choose.random()
        busy = {*running, *(frozen or ()), *durable, *pins}
        if action < 0.3:
            try:
                got = bench.take(choose.randint(1, 5))
            except NoSpaceError:
                continue
            assert not busy & set(got)
            running |= dict.fromkeys(got, 1)
        elif action < 0.5 and running:
            for block in choose.sample(sorted(running), min(len(running), 3)):
                bench.drop(block)
                running[block] -= 1
            running = {block: count for block, count in running.items() if count}
        elif action < 0.6 and running:
            block = choose.choice(sorted(running))
            cow.add_references((block, 1))
            running[block] += 1
        elif action < 0.7 and running:
            pins.append(choose.choice(sorted(running)))
            cow.pin([(pins[-1], 1)])
        elif action < 0.78 and pins:
            cow.unpin([(pins.pop(choose.randrange(len(pins))), 1)])
        elif action < 0.88:
            if frozen is None:
                bench.freeze()
                frozen = running.copy()
            elif choose.random() < 0.7:
                bench.settle()
                durable, frozen = frozen, None
            else:
                bench.merge_back()
                frozen = None
        elif action < 0.93:
            bench.disk.calls.clear()
            punch = begin_or_end_punch(cow, choose, punch)
            assert cow.end_block > max(busy, default=-1)
            for call in bench.disk.of("punch"):
                begin, end = call.offset // BLOCK, (call.offset + call.length) // BLOCK
                assert not busy & set(range(begin, end))
        else:
            cow.counts.trim()
        assert {b: cow.count(b) for b in range(60) if cow.count(b)} == running
