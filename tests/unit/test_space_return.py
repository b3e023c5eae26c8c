"""When free space is given back: in a thread of the mount, but at once when it is short."""

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine import space_return

BLOCKS = 16


@pytest.fixture
def store(new_store: NewStore, monkeypatch: pytest.MonkeyPatch) -> EngineStore:
    """A store with blocks that the next commit frees; what is free is left to others."""
    monkeypatch.setattr(space_return, "_AFTER_BYTES", 0)
    disk = ScriptedDisk()
    made = new_store(disk=disk)
    made.add("a", bytes(BLOCKS * BLOCK))
    engine = made.open()
    engine.space_return.is_left = True
    for number in range(BLOCKS):
        made.write("a", number * BLOCK, number.to_bytes(1) * BLOCK)
    engine.commit()
    made.write("a", BLOCK, bytes(BLOCK * (BLOCKS - 1)))
    disk.calls.clear()
    return made


def holes(store: EngineStore) -> int:
    assert isinstance(store.disk, ScriptedDisk)
    return sum(call.length for call in store.disk.of("punch")) // BLOCK


def test_space_is_left_to_who_has_a_thread_for_it(store):
    store.engine.commit()
    assert holes(store) == 0
    punch = store.engine.space_return.begin()
    assert store.engine.space_return.begin() is None
    punch.run()
    store.engine.space_return.end(punch)
    assert holes(store) == BLOCKS - 1
    assert store.engine.space_return.begin() is None


def test_space_is_given_back_at_once_when_the_reserve_is_gone(store):
    store.engine._watch.reserve.release()
    store.engine.commit()
    assert holes(store) == BLOCKS - 1


def test_space_that_is_being_given_back_is_awaited_when_it_is_short(store):
    store.engine.commit()
    punch = store.engine.space_return.begin()
    store.write("a", 0, b"x" * BLOCK)
    store.engine._watch.reserve.release()
    store.engine.commit()
    assert holes(store) >= BLOCKS - 1
    punch.run()
    store.engine.space_return.end(punch)
    assert store.read("a") == b"x" * BLOCK + bytes((BLOCKS - 1) * BLOCK)
