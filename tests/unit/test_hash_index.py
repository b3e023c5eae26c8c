"""The hash table: bounded, staged, and never proof of anything."""

import random

import pytest

from tests.support.engines import NewStore
from thincow.block_types import COW_BASE
from thincow.engine.hash_index import HashIndex, write
from thincow.store import hashes_table
from thincow.store.connection import open_connection, transaction
from thincow.store.migrations import create_schema

UPSTREAM = (1 << 40) + 7
COW = COW_BASE + 3
HIGH = (1 << 64) - 5


class Bench:
    """An index over a database in memory, with commits."""

    def __init__(
        self, capacity: int = 1000, max_hints: int = 1 << 20, max_in_commit: int = 1 << 20
    ) -> None:
        self.db = open_connection(None)
        create_schema(self.db)
        self.index = HashIndex(
            self.db,
            512,
            capacity,
            entries=0,
            max_hints=max_hints,
            max_in_commit=max_in_commit,
        )
        self.entries = 0
        self.generation = 0

    def commit(self, *, is_awaited: bool = False) -> None:
        self.generation += 1
        frozen = self.index.freeze(is_awaited=is_awaited)
        with transaction(self.db):
            self.entries = write(
                self.db,
                frozen,
                self.index.filter,
                self.entries,
                self.index.capacity,
                self.generation,
            )
        self.index.settle()
        assert hashes_table.count(self.db) == self.entries <= self.index.capacity

    def note(self, *entries: tuple[int, int]) -> None:
        for value, place in entries:
            if place < COW_BASE:
                self.index.note_read([value], place)
            else:
                self.index.note_stored([value], [place])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("value", [0, 1, (1 << 63) - 1, 1 << 63, HIGH])
def test_entry_is_found_staged_frozen_and_stored(bench, value):
    bench.note((value, COW))
    assert bench.index.lookup(value) == COW
    frozen = bench.index.freeze()
    assert bench.index.staged_entries == 0
    assert bench.index.lookup(value) == COW
    with transaction(bench.db):
        write(bench.db, frozen, bench.index.filter, 0, 10, 1)
    bench.index.settle()
    assert bench.index.lookup(value) == COW
    assert bench.index.lookup(value ^ 2) is None


def test_many_entries_are_found_wherever_they_are(bench):
    bench.note((1, UPSTREAM), (HIGH, COW))
    bench.commit()
    bench.note((2, UPSTREAM + 1))
    frozen = bench.index.freeze()
    bench.note((3, UPSTREAM + 2), (1, COW + 5))
    found = bench.index.lookup_many([0, 1, 2, 3, 4, HIGH])
    assert found == {1: COW + 5, 2: UPSTREAM + 1, 3: UPSTREAM + 2, HIGH: COW}
    bench.index.merge_back(frozen)
    assert bench.index.lookup_many([]) == {}


def test_each_of_very_many_entries_is_found_in_whatever_epoch(bench):
    choose = random.Random(3)
    values = [choose.getrandbits(64) for _ in range(9000)]
    places = dict(zip(values, range(COW, COW + 9000), strict=True))

    def note(low: int, high: int) -> None:
        part = values[low:high]
        bench.index.note_stored(part, [places[value] for value in part])

    note(0, 4500)
    for value in values[4500:4600]:
        bench.index.note_one_stored(value, places[value])
    assert bench.index.lookup_many(values) == dict(list(places.items())[:4600])
    frozen = bench.index.freeze()
    note(4600, 9000)
    assert bench.index.lookup_many(values) == places
    bench.index.merge_back(frozen)
    assert bench.index.lookup_many(values) == places
    others = [choose.getrandbits(64) for _ in range(9000)]
    assert bench.index.lookup_many(others) == {}


def test_runs_of_what_was_read_are_found_and_stored_without_zeros(bench):
    zero = bench.index.zero_hash
    bench.index.note_read([zero] * 3, UPSTREAM + 100)
    assert bench.index.staged_entries == 0
    bench.index.note_read([zero] * 90, UPSTREAM + 100)
    assert bench.index.staged_entries == 0
    filler = list(range(1000, 1100))
    bench.index.note_read([5, zero, HIGH, 5, *filler], UPSTREAM)
    frozen = bench.index.freeze()
    bench.index.note_read([6, 7], UPSTREAM + 200)
    expected = {HIGH: UPSTREAM + 2, 6: UPSTREAM + 200, 7: UPSTREAM + 201}
    found = bench.index.lookup_many([5, 6, 7, zero, HIGH])
    assert found.pop(5) in (UPSTREAM, UPSTREAM + 3)
    assert found == expected
    assert len(frozen.hints) == 3 + len(filler)  # the commit reads it meanwhile
    bench.index.merge_back(frozen)
    assert bench.index.lookup(zero) is None
    assert bench.index.lookup(HIGH) == UPSTREAM + 2
    bench.commit()
    assert bench.entries == 4 + len(filler)
    found = bench.index.lookup_many([5, 6, 7, zero, HIGH])
    assert found.pop(5) in (UPSTREAM, UPSTREAM + 3)
    assert found == expected


def test_hurry_of_a_failed_commit_goes_on(bench):
    bench.note((1, UPSTREAM))
    bench.index.hurry()
    bench.index.merge_back(bench.index.freeze(is_awaited=True))
    assert bench.index.has_stored
    bench.commit(is_awaited=True)
    assert hashes_table.lookup(bench.db, 1) == UPSTREAM
    assert not bench.index.has_stored


def test_hints_go_with_any_commit_once_they_are_many():
    bench = Bench(max_hints=3)
    bench.note((1, UPSTREAM), (2, UPSTREAM + 1))
    bench.commit(is_awaited=True)
    assert bench.entries == 0
    bench.note((3, UPSTREAM + 2))
    bench.commit(is_awaited=True)
    assert bench.entries == 3


def test_hints_go_a_part_at_a_time_the_oldest_first():
    bench = Bench(max_hints=50, max_in_commit=20)
    bench.index.note_read(list(range(100, 140)), UPSTREAM)
    bench.note((7, UPSTREAM + 90), (8, COW))
    bench.commit(is_awaited=True)
    assert bench.entries == 1
    bench.commit()
    assert bench.entries == 21
    assert hashes_table.lookup(bench.db, 119) == UPSTREAM + 19
    assert hashes_table.lookup(bench.db, 120) is None
    assert bench.index.lookup(139) == UPSTREAM + 39
    bench.index.note_stale(130)
    bench.index.merge_back(bench.index.freeze())
    bench.index.hurry()
    bench.commit(is_awaited=True)
    assert bench.entries == 42
    assert bench.index.staged_entries == 0


def test_entries_of_a_failed_commit_do_not_hide_newer_ones(bench):
    long = list(range(100, 150))
    bench.note((1, UPSTREAM), (2, UPSTREAM + 1))
    bench.index.note_read(long, UPSTREAM + 100)
    frozen = bench.index.freeze()
    bench.index.note_stale(1)
    bench.note((1, COW), (2, UPSTREAM + 9), (100, COW + 1))
    bench.index.note_read(list(reversed(long[1:])), UPSTREAM + 300)
    newer = {1: COW, 2: UPSTREAM + 9, 100: COW + 1, 149: UPSTREAM + 300, 101: UPSTREAM + 348}
    bench.index.merge_back(frozen)
    assert bench.index.lookup_many(list(newer)) == newer
    bench.commit()
    assert bench.index.lookup_many(list(newer)) == newer


def test_many_entries_of_a_failed_commit_do_not_hide_newer_ones(bench):
    """More than one lookup makes ready to be found."""
    choose = random.Random(5)
    values = [choose.getrandbits(64) for _ in range(200_000)]
    bench.index.note_read(values, UPSTREAM)
    frozen = bench.index.freeze()
    bench.index.note_stored(values, range(COW, COW + 200_000))
    bench.index.merge_back(frozen)
    for _ in range(4):
        bench.index.lookup(values[0])
    assert bench.index.lookup(values[0]) == COW
    assert bench.index.lookup(values[-1]) == COW + 199_999


def test_stale_entry_is_replaced_by_a_place_in_a_run(bench):
    bench.note((1, UPSTREAM), (2, COW))
    bench.commit()
    bench.index.note_stale(1)
    bench.index.note_read([3, 1, 2], UPSTREAM + 50)
    bench.commit()
    expected = {3: UPSTREAM + 50, 1: UPSTREAM + 51, 2: UPSTREAM + 52}
    assert bench.index.lookup_many([1, 2, 3]) == expected
    assert bench.entries == 3


def test_newer_entry_hides_an_older_one(bench):
    bench.note((1, COW))
    frozen = bench.index.freeze()
    bench.note((1, COW + 1))
    assert bench.index.lookup(1) == COW + 1
    bench.index.merge_back(frozen)
    assert bench.index.lookup(1) == COW + 1


def test_newer_entry_of_one_of_many_hides_an_older_one(bench):
    values = list(range(1, 101))
    bench.index.note_stored(values, range(COW, COW + 100))
    frozen = bench.index.freeze()
    bench.index.note_stored(values, range(COW + 500, COW + 600))
    expected = dict(zip(values, range(COW + 500, COW + 600), strict=True))
    assert bench.index.lookup_many(values) == expected
    bench.index.merge_back(frozen)
    assert bench.index.lookup_many(values) == expected


def test_stale_entry_gives_way_to_upstream_rather_than_to_a_copy(bench):
    bench.note((1, UPSTREAM))
    bench.commit()
    bench.index.note_stale(1)
    bench.note((1, COW))
    bench.note((1, UPSTREAM + 9))
    bench.commit()
    assert hashes_table.lookup(bench.db, 1) == UPSTREAM + 9
    assert bench.entries == 1


def test_entries_of_a_failed_commit_come_with_the_next(bench):
    bench.note((1, COW), (2, COW + 1))
    bench.index.merge_back(bench.index.freeze())
    bench.note((3, COW + 2))
    assert bench.index.staged_entries == 3
    bench.commit()
    assert bench.entries == 3


def test_first_entry_stays_unless_it_is_stale(bench):
    bench.note((1, COW), (2, COW))
    bench.commit()
    bench.index.note_stale(2)
    bench.note((1, COW + 5), (2, COW + 5))
    bench.commit()
    assert bench.index.lookup_many([1, 2]) == {1: COW, 2: COW + 5}
    assert bench.entries == 2


def test_stale_entry_of_a_failed_commit_is_replaced_by_the_next(bench):
    bench.note((1, COW))
    bench.commit()
    bench.index.note_stale(1)
    bench.note((1, COW + 5))
    bench.index.merge_back(bench.index.freeze())
    bench.commit()
    assert bench.index.lookup(1) == COW + 5


def test_upstream_replaces_a_place_in_the_cow_store_but_not_the_other_way(bench):
    bench.note((1, COW), (2, UPSTREAM))
    bench.commit()
    bench.note((1, UPSTREAM), (2, COW))
    bench.commit()
    assert bench.index.lookup_many([1, 2]) == {1: UPSTREAM, 2: UPSTREAM}
    assert bench.entries == 2


def test_entries_of_upstream_wait_while_somebody_waits(bench):
    bench.note((1, UPSTREAM), (2, COW))
    assert bench.index.lookup_many([1, 2, 3]) == {1: UPSTREAM, 2: COW}
    bench.commit(is_awaited=True)
    assert hashes_table.lookup(bench.db, 1) is None
    assert hashes_table.lookup(bench.db, 2) == COW
    assert bench.index.lookup_many([1, 2]) == {1: UPSTREAM, 2: COW}
    assert bench.index.lookup(1) == UPSTREAM
    bench.commit()
    assert hashes_table.lookup(bench.db, 1) == UPSTREAM
    assert bench.index.staged_entries == 0


def test_entries_in_a_hurry_wait_for_nothing(bench):
    bench.note((1, UPSTREAM), (2, COW))
    bench.index.hurry()
    bench.commit(is_awaited=True)
    assert hashes_table.lookup(bench.db, 1) == UPSTREAM
    assert hashes_table.lookup(bench.db, 2) == COW


@pytest.mark.parametrize("places", [(COW, UPSTREAM), (UPSTREAM, COW)])
def test_content_in_the_cow_store_has_an_entry_with_every_commit(bench, places):
    for place in places:
        bench.note((1, place))
    assert bench.index.lookup(1) == places[1]
    bench.commit(is_awaited=True)
    assert hashes_table.lookup(bench.db, 1) == COW
    assert bench.index.lookup(1) == places[1]
    bench.commit()
    assert bench.entries == 1
    assert hashes_table.lookup(bench.db, 1) == places[1]


def test_stale_entry_waits_for_the_place_that_replaces_it(bench):
    bench.note((1, UPSTREAM))
    bench.commit()
    bench.index.note_stale(1)
    bench.note((1, UPSTREAM + 9))
    bench.commit(is_awaited=True)
    assert hashes_table.lookup(bench.db, 1) == UPSTREAM
    bench.commit()
    assert hashes_table.lookup(bench.db, 1) == UPSTREAM + 9


def test_zeros_are_never_recorded(bench):
    bench.note((bench.index.zero_hash, COW), (1, COW))
    assert bench.index.lookup(bench.index.zero_hash) is None
    assert bench.index.staged_entries == 1


@pytest.mark.parametrize("capacity", [1, 16, 100])
@pytest.mark.parametrize("seed", range(3))
def test_table_never_holds_more_than_its_bound(capacity, seed):
    bench = Bench(capacity)
    choose = random.Random(seed)
    for _ in range(20):
        values = [choose.getrandbits(64) for _ in range(choose.randint(1, 60))]
        bench.note(*((value, COW + value % 1000) for value in values))
        if choose.random() < 0.5:
            bench.index.note_stale(values[0])
        bench.commit()
    assert bench.entries == capacity


def test_what_gives_way_is_not_simply_the_oldest():
    bench = Bench(capacity=64)
    choose = random.Random(1)
    generations = [[choose.getrandbits(64) for _ in range(8)] for _ in range(64)]
    for values in generations:
        bench.note(*((value, COW) for value in values))
        bench.commit()
    left = [len(bench.index.lookup_many(values)) for values in generations]
    assert sum(left) == 64
    assert sum(left[:-16]) > 8, "only the newest entries are left"


def test_contents_read_again_and_again_are_found_though_they_do_not_fit(new_store: NewStore):
    """A table with the oldest entries thrown out would never hit here."""
    store = new_store(hash_table_bytes=64 * 16)
    blocks = 96
    content = random.Random(1).randbytes(blocks * 512)
    store.add("a", content)
    store.add("b", bytes(len(content)))
    engine = store.open()
    for _ in range(3):
        for at in range(0, len(content), 4 * 512):
            store.write("b", at, content[at : at + 4 * 512])
            engine.commit()
        for at in range(0, len(content), 4 * 512):
            store.write("b", at, bytes(4 * 512))
        store.read("a")
        engine.commit()
    assert engine.hash_usage() == (64, 64)
    assert engine.statistics.blocks_dedup_hash > 0


def test_table_whose_bound_was_lowered_shrinks_bit_by_bit():
    """All at once, a hundred million entries would hold a mount up for a minute."""
    bench = Bench(capacity=100_000)
    bench.index.note_stored(range(1, 20_001), range(COW, COW + 20_000))
    bench.commit()
    lowered = Bench(capacity=1000)
    lowered.db, lowered.entries = bench.db, bench.entries
    sizes = []
    for number in range(10):
        frozen = lowered.index.freeze()
        lowered.entries = write(
            lowered.db, frozen, lowered.index.filter, lowered.entries, 1000, number
        )
        first = 50_000 + 3 * number
        lowered.index.note_stored(range(first, first + 3), range(COW, COW + 3))
        sizes.append(hashes_table.count(lowered.db))
    # Each three new entries drive out six: those of the first commit are noted after it.
    assert sizes == list(range(20_000, 20_000 - 10 * 3, -3))
    assert lowered.entries == sizes[-1]


def test_table_shrinks_when_its_bound_does(new_store: NewStore):
    store = new_store()
    store.add("a", random.Random(1).randbytes(100 * 512))
    store.open()
    store.read("a")
    store.engine.commit()
    assert store.engine.hash_usage()[0] == 100
    store.restart(hash_table_bytes=256)
    assert store.engine.hash_usage() == (16, 16)
    store.restart(hash_table_bytes=1 << 20)
    store.read("a")
    store.engine.commit()
    assert store.engine.hash_usage() == (100, 1 << 16)
