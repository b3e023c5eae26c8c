"""What a flush makes of hash entries: none leads to what it overwrote, new contents are known."""

import random

from tests.support.engines import BLOCK, EngineStore
from thincow.engine import fsck
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_steps import Pause


def check_contents(store: EngineStore) -> None:
    """Close the store; each hash entry must lead to what it says."""
    store.close()
    report = fsck.check(store.data_dir, store.metadata_dir, store.upstream_dir, deep=True)
    assert report.findings == ()


def test_entries_of_overwritten_blocks_are_gone(store: EngineStore) -> None:
    store.add("a", "abcdefgh")
    store.open()
    store.read("a")
    store.write_blocks("a", 1, "xxyy")
    store.engine.flush.run(FlushOrder())
    check_contents(store)
    store.open()
    store.write_blocks("a", 7, "b")
    assert store.places("a")[7].startswith("cow")
    store.write_blocks("a", 7, "y")
    assert store.places("a")[7] in ("a 3", "a 4")


def test_entries_noted_during_a_flush_lead_to_nothing_overwritten(store: EngineStore) -> None:
    store.add("a", "abcdefgh")
    store.add("b", "ijklmnop")
    store.open()
    store.read("a")
    store.write_blocks("a", 0, "xx")
    store.write_blocks("b", 0, "e")
    store.write_blocks("a", 4, "y")
    store.write_blocks("b", 4, "zz")
    flush = store.engine.flush.begin(FlushOrder(batch_bytes=BLOCK))
    for step in flush.steps():
        if step is Pause.COMMIT:
            store.engine.commit()
        elif not isinstance(step, Pause):
            step.run()
            # A block that nobody has seen and that was clean when the pass began, ...
            store.read_blocks("b", 6, 2)
            store.write_blocks("b", 7, "w")
            # ... and one whose old content another block shows until now.
            store.read_blocks("b", 0, 1)
            store.write_blocks("b", 0, "v")
    store.engine.flush.end(None)
    assert store.read_blocks("a") == "xxcdyfgh"
    check_contents(store)


def test_copies_are_known_before_their_old_entries_can_speak_against_them(
    store: EngineStore,
) -> None:
    store.add("a", "abcdefgh")
    store.add("b", "ABCDEFGH")
    store.open()
    store.read("a")
    store.read("b")
    store.write_blocks("a", 7, "x")
    store.engine.commit()
    store.write_blocks("a", 7, "h")
    store.engine.commit()
    store.write_blocks("a", 0, "ABCD")
    store.write_blocks("b", 0, "abcd")
    store.engine.flush.run(FlushOrder(max_blocks=1))
    assert store.live_cow_blocks() > 0
    check_contents(store)


def test_flush_of_one_device_ends_though_others_are_dirty(store: EngineStore) -> None:
    store.add("a", random.Random(1).randbytes(4 * BLOCK))
    store.add("b", random.Random(2).randbytes(4 * BLOCK))
    store.open()
    store.write_blocks("a", 0, "xy")
    store.write_blocks("b", 0, "vw")
    flush = store.engine.flush.run(FlushOrder(names=frozenset("a")))
    assert flush.done == 2
    assert store.places("a") == ["own"] * 4
    assert store.engine.status() == "ready"


def test_client_that_rewrites_what_stands_in_the_way_is_no_lack_of_space(
    store: EngineStore,
) -> None:
    store.add("a", "abcd")
    store.add("b", "efgh")
    store.open()
    store.read("b")
    store.write_blocks("b", 0, "x")
    store.write_blocks("a", 0, "e")
    flush = store.engine.flush.begin(FlushOrder())
    fresh = iter("ABCDEFGHIJKL")
    for step in flush.steps():
        if step is Pause.COMMIT:
            letter = next(fresh, None)
            if letter is not None:
                # What b shows upstream is shown by the last commit alone.
                store.write_blocks("a", 0, "e")
            store.engine.commit()
            if letter is not None:
                store.write_blocks("a", 0, letter)
        elif not isinstance(step, Pause):
            step.run()
    store.engine.flush.end(None)
    assert store.read_blocks("a") == "Lbcd"
    assert store.engine.status() == "clean"


def test_flush_cancelled_between_batches_begins_no_other(store: EngineStore) -> None:
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 0, "wxyz")
    flush = store.engine.flush.begin(FlushOrder(batch_bytes=store.block_size))
    pauses = 0
    for step in flush.steps():
        if step is Pause.COMMIT:
            store.engine.commit()
        elif step is Pause.BETWEEN:
            pauses += 1
            if pauses == 3:
                assert flush.done == 2
                flush.cancel()
        elif not isinstance(step, Pause):
            step.run()
    store.engine.flush.end(None)
    assert flush.done == 2
    assert store.read_blocks("a") == "wxyz"


def test_block_read_during_a_flush_is_known_once_it_is_read_again(store: EngineStore) -> None:
    store.add("a", "abcdefgh")
    store.open()
    store.write_blocks("a", 0, "x")
    store.engine.flush.run(FlushOrder(), lambda: store.read_blocks("a", 4, 4))
    assert store.read_blocks("a", 4, 4) == "efgh"
    store.write_blocks("a", 1, "g")
    assert store.places("a")[1] == "a 6"
