"""Where the contents of a write are found, and what finding them costs."""

import pytest
import xxhash

from tests.support.engines import BLOCK, EngineStore, NewStore, letter, letters, numbered
from tests.support.scripted_disk import ScriptedDisk

UPSTREAM = "abcdefghijkl"


@pytest.fixture
def disk() -> ScriptedDisk:
    return ScriptedDisk()


@pytest.fixture
def served(new_store: NewStore, disk: ScriptedDisk) -> EngineStore:
    """An open store: a has 12 different blocks, b four others, c four zero ones."""
    store = new_store(disk=disk)
    store.add("a", UPSTREAM)
    store.add("b", "mnop")
    store.add("c", "0000")
    store.open()
    disk.calls.clear()
    return store


def test_content_that_was_never_seen_costs_no_upstream_read(served, disk):
    served.write_blocks("b", 0, "wxyz")
    for number, character in enumerate("stuv"):
        served.write_blocks("a", number, character)
    assert disk.of("read") == []
    assert served.engine.statistics.blocks_new == 8


def test_content_that_was_read_is_found_upstream(served):
    served.read("a")
    served.write_blocks("b", 1, "fgh")
    assert served.places("b") == ["own", "a 5", "a 6", "a 7"]
    assert served.live_cow_blocks() == 0
    assert served.stored_blocks() == 0


def test_content_that_was_not_read_is_stored(served):
    served.write_blocks("b", 1, "fgh")
    assert served.places("b") == ["own", "cow 0", "cow 1", "cow 2"]


def test_content_that_was_written_is_found_in_the_cow_store(served):
    served.write_blocks("a", 0, "wxyz")
    served.write_blocks("b", 0, "wxyz")
    served.engine.commit()
    served.write_blocks("a", 8, "wxyz")
    assert served.live_cow_blocks() == 4
    assert served.engine.cow_usage()[3] == 12


def test_content_written_before_a_restart_is_found(served):
    served.write_blocks("a", 0, "wxyz")
    served.restart()
    served.write_blocks("b", 0, "wxyz")
    assert served.live_cow_blocks() == 4


def test_zeros_are_stored_nowhere(served):
    served.write_blocks("a", 2, "0000")
    assert served.places("a")[2:6] == ["zero"] * 4
    assert served.engine.statistics.blocks_zero == 4
    assert served.live_cow_blocks() == 0


def test_zeros_over_zeros_are_identity(served):
    served.read("c")
    served.write_blocks("c", 0, "0000")
    assert served.places("c") == ["own"] * 4


def test_repeats_in_one_request_are_stored_once(served):
    served.write_blocks("a", 0, "xyxxzy")
    assert served.places("a")[:6] == ["cow 0", "cow 1", "cow 0", "cow 0", "cow 2", "cow 1"]
    assert served.engine.statistics.blocks_new == 3
    assert served.engine.statistics.blocks_dedup_hash == 3


def test_own_place_is_preferred(new_store):
    store = new_store()
    store.add("a", "abcd")
    store.add("b", "abcd")
    store.open()
    store.read("b")
    store.read("a")  # both places are known; one entry a hash
    for name in "ab":
        store.write_blocks(name, 0, "wxyz")
        store.write_blocks(name, 0, "abcd")
        assert store.places(name) == ["own"] * 4
    assert store.live_cow_blocks() == 0


def test_own_place_is_preferred_to_a_copy_in_the_cow_store(served):
    served.write_blocks("b", 0, "a")  # not seen upstream yet: stored
    served.read("a")
    served.write_blocks("a", 0, "z")
    served.write_blocks("a", 0, "a")
    assert served.places("a")[0] == "own"


def test_what_is_stored_already_is_not_compared_with_its_own_place(served, disk):
    served.read("a")
    served.write_blocks("a", 0, "wxyz")
    disk.calls.clear()
    served.write_blocks("a", 0, "wx")
    served.write_blocks("a", 2, "yz")
    assert disk.of("read", name="a") == []
    assert served.live_cow_blocks() == 4


def test_upstream_is_recorded_in_the_place_of_a_copy(served):
    served.write_blocks("b", 0, "a")
    served.engine.commit()
    served.read("a")
    served.restart()
    served.write_blocks("b", 2, "a")
    assert served.places("b")[2] == "a 0"


def test_run_is_compared_as_a_whole(served, disk):
    served.read("a")
    disk.calls.clear()
    served.write("b", 0, letters("cdef"))
    assert len(disk.of("read", name="a")) == 1
    assert served.engine.statistics.blocks_dedup_hash == 1
    assert served.engine.statistics.blocks_dedup_run == 3


def store_with_numbered(new_store, disk, count):
    """Return a store with a device a of blocks that all differ, and were read, and that content.

    A device b of the same size is empty.
    """
    content = numbered(count)
    store = new_store(disk=disk)
    store.add("a", content)
    store.add("b", bytes(len(content)))
    store.open()
    store.read("a")
    return store, content


def test_long_run_takes_few_reads_and_one_where_it_goes_on(new_store, disk):
    store, content = store_with_numbered(new_store, disk, 400)
    disk.calls.clear()
    store.write("b", 0, content[: 200 * BLOCK])
    assert len(disk.of("read", name="a")) <= 6
    disk.calls.clear()
    store.write("b", 200 * BLOCK, content[200 * BLOCK :])
    assert len(disk.of("read", name="a")) == 1
    assert store.places("b") == [f"a {number}" for number in range(400)]


def test_short_runs_read_little_more_than_themselves(new_store, disk):
    store, content = store_with_numbered(new_store, disk, 160)
    runs = [content[at * BLOCK : (at + 16) * BLOCK] for at in range(0, 160, 16)]
    disk.calls.clear()
    store.write("b", 0, b"".join(reversed(runs)))
    assert sum(call.length for call in disk.of("read", name="a")) <= 2 * len(content)
    assert store.places("b")[:17] == [*(f"a {number}" for number in range(144, 160)), "a 128"]


def test_run_goes_on_in_the_next_request(served):
    served.read("a")
    served.restart(hash_table_bytes=16)  # one entry is left at most
    served.read("a", 0, BLOCK)
    for number, character in enumerate("abcd"):
        served.write_blocks("b", number, character)
    assert served.places("b") == ["a 0", "a 1", "a 2", "a 3"]
    assert served.engine.statistics.blocks_dedup_hash == 1
    assert served.engine.statistics.blocks_dedup_run == 3


def test_run_ends_where_contents_differ(served):
    served.read("a")
    served.write_blocks("b", 0, "abXd")
    assert served.places("b") == ["a 0", "a 1", "cow 0", "a 3"]


def test_run_ends_at_the_end_of_a_device(served):
    served.read("a")
    served.write_blocks("b", 0, "klxy")
    assert served.places("b") == ["a 10", "a 11", "cow 0", "cow 1"]


def test_partial_last_block_is_found_with_zeros_behind_it(new_store):
    store = new_store()
    short = letters("ab")[: BLOCK + 100]
    store.add("a", short)
    store.add("b", letters("xyz"))
    store.add("c", letters("x") + bytes(100))
    store.open()
    store.read("a")
    store.write("b", BLOCK, short[BLOCK:].ljust(BLOCK, b"\0"))
    assert store.places("b") == ["own", "a 1", "own"]
    store.write("c", BLOCK, short[BLOCK:])
    assert store.places("c") == ["own", "a 1"]
    assert store.read("c") == letters("x") + short[BLOCK:]
    store.write("a", BLOCK, b"y" * 100)
    store.write("a", BLOCK, short[BLOCK:])
    assert store.places("a") == ["own", "own"]


def test_stale_entry_is_not_believed(served):
    served.write_blocks("a", 0, "x")
    served.engine.commit()
    served.write_blocks("a", 0, "y")  # the entry of x leads to a free block now
    served.engine.commit()
    served.write_blocks("a", 1, "z")  # which z takes
    served.write_blocks("a", 2, "x")
    assert served.read_blocks("a", 0, 4) == "yzxd"
    served.engine.commit()
    served.write_blocks("a", 3, "x")
    assert served.live_cow_blocks() == 3
    assert served.read_blocks("a", 0, 4) == "yzxx"


def test_stale_entry_is_replaced(served):
    served.write_blocks("a", 0, "x")
    served.engine.commit()
    served.write_blocks("a", 0, "y")
    served.engine.commit()
    served.write_blocks("a", 1, "x")
    served.restart()
    served.write_blocks("a", 2, "x")
    assert served.live_cow_blocks() == 2


def test_hash_is_no_proof(served, monkeypatch):
    def collide(data):
        del data
        return 4711

    monkeypatch.setattr(xxhash, "xxh3_64_intdigest", collide)
    for module in ("block_reader", "buffers", "block_writer", "hash_index"):
        monkeypatch.setattr(f"thincow.engine.{module}.xxh3_64_intdigest", collide)
    served.read("a")
    served.write_blocks("b", 0, "wxyw")
    served.write_blocks("a", 0, "wx")
    assert served.read_blocks("b") == "wxyw"
    assert served.read_blocks("a") == "wx" + UPSTREAM[2:]


def test_upstream_that_changed_is_not_believed(served):
    served.read("a")
    served.must_be_sound = False
    path = served.upstream_dir / "a"
    path.write_bytes(letter("q") + path.read_bytes()[BLOCK:])
    served.write_blocks("b", 0, "a")
    assert served.places("b")[0] == "cow 0"


def test_place_that_cannot_be_read_is_not_used(served, disk):
    served.read("a")
    with disk.failing("read", "a"):
        served.write_blocks("b", 0, "ab")
    assert served.places("b")[:2] == ["cow 0", "cow 1"]


@pytest.mark.parametrize("retroactive", [False, True])
def test_blocks_before_a_match_are_remapped_retroactively(new_store, retroactive):
    store = new_store(hash_table_bytes=16, retroactive=retroactive)
    store.add("a", UPSTREAM)
    store.add("b", "000000000000")
    store.open()
    store.write_blocks("b", 0, "abcde")  # nothing is known: stored
    store.engine.commit()
    store.read("a", 5 * BLOCK, BLOCK)
    store.write_blocks("b", 5, "f")
    expected = [f"a {number}" for number in range(5)]
    if not retroactive:
        expected = [f"cow {number}" for number in range(5)]
    assert store.places("b")[:6] == [*expected, "a 5"]
    assert store.engine.statistics.blocks_dedup_retroactive == (5 if retroactive else 0)
    assert store.read_blocks("b", 0, 6) == "abcdef"


def test_retroactive_stops_where_contents_differ(new_store):
    store = new_store(retroactive=True)
    store.add("a", UPSTREAM)
    store.add("b", "000000000000")
    store.open()
    store.write_blocks("b", 0, "aXcde")
    store.read("a", 5 * BLOCK, BLOCK)
    store.write_blocks("b", 5, "f")
    places = ["cow 0", "cow 1", "a 2", "a 3", "a 4", "a 5"]
    assert store.places("b")[:6] == places
    assert store.live_cow_blocks() == 2


def test_retroactive_looks_back_inside_the_request_too(new_store):
    store = new_store(retroactive=True)
    store.add("a", UPSTREAM)
    store.add("b", "000000000000")
    store.open()
    store.write_blocks("b", 0, "ab")
    store.read("a", 4 * BLOCK, BLOCK)
    store.write_blocks("b", 2, "cdef")
    assert store.places("b")[:6] == [f"a {number}" for number in range(6)]
    assert store.live_cow_blocks() == 0


def test_reading_again_hashes_nothing_again(served, monkeypatch):
    hashed = []

    def digest(data):
        hashed.append(data)
        return xxhash.xxh3_64_intdigest(data)

    monkeypatch.setattr("thincow.engine.buffers.xxh3_64_intdigest", digest)
    served.read("a")
    assert len(hashed) == 12
    served.read("a")
    served.write_blocks("b", 0, "ab")
    hashed.clear()
    served.read("b", 0, 2 * BLOCK)
    assert hashed == []
