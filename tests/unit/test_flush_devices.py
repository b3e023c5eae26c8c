"""Flushing some devices alone, and leaving out what upstream holds already."""

import os
import random
from pathlib import Path

import pytest

from tests.support.engines import BLOCK, EngineStore
from thincow.engine.flush_order import FlushOrder
from thincow.errors import FlushError


def alone(store: EngineStore, *names: str) -> int:
    return store.engine.flush.run(FlushOrder(names=frozenset(names))).done


def upstream(store: EngineStore, name: str) -> str:
    content = (store.upstream_dir / name).read_bytes()
    return "".join(chr(content[at]) for at in range(0, len(content), BLOCK))


@pytest.fixture
def moved(store: EngineStore) -> EngineStore:
    """A store in which c shows blocks of a, and a and b have changed places in part."""
    for name, content in {"a": "ABCD", "b": "EFGH", "c": "IJKL"}.items():
        store.add(name, content)
    store.open()
    for name in "abc":
        store.read_blocks(name)
    store.write_blocks("c", 0, "CD")
    store.write_blocks("a", 0, "EFxy")
    store.write_blocks("b", 0, "ABvw")
    return store


def test_device_waits_for_another_that_shows_its_contents(moved: EngineStore) -> None:
    with pytest.raises(FlushError, match="2 blocks of a cannot be flushed alone, since b") as error:
        alone(moved, "a")
    assert "2 blocks of a cannot be flushed alone, since c" in str(error.value)
    assert moved.engine.status() == f"error\n{error.value}"
    assert moved.live_cow_blocks() == 4  # nothing was copied for others
    assert upstream(moved, "a") == "ABCD"


def test_devices_that_changed_places_are_flushed_together(moved: EngineStore) -> None:
    with pytest.raises(FlushError, match="2 blocks of a cannot be flushed alone, since c still"):
        alone(moved, "a", "b")
    assert upstream(moved, "a") == "EFCD"
    assert upstream(moved, "b") == "ABvw"
    assert alone(moved, "c") == 2
    assert alone(moved, "a", "b") == 2
    assert [upstream(moved, name) for name in "abc"] == ["EFxy", "ABvw", "CDKL"]
    assert moved.engine.status() == "clean"


def test_only_named_devices_are_flushed(moved: EngineStore) -> None:
    assert alone(moved, "c") == 2
    assert [upstream(moved, name) for name in "abc"] == ["ABCD", "EFGH", "CDKL"]
    assert moved.engine.status() == "ready"


def test_unknown_device_is_refused(moved: EngineStore) -> None:
    with pytest.raises(FlushError, match="there is no device x"):
        alone(moved, "a", "x")
    assert moved.engine.status() == "ready"


def test_what_upstream_holds_is_not_written(store: EngineStore) -> None:
    path = store.add("a", random.Random(1).randbytes(8 * BLOCK))
    before = path.read_bytes()
    store.open()
    new = random.Random(2).randbytes(BLOCK)
    store.write("a", 0, before[: 2 * BLOCK] + new + before[3 * BLOCK :])
    assert store.count_dirty() == 8
    with store.engine.snapshot() as snapshot:
        plan = store.engine.flush.plan(snapshot)
    assert (plan.write_bytes, plan.equal_bytes) == (BLOCK, 7 * BLOCK)
    store.engine.flush.run(FlushOrder())
    stats = store.device("a").stats
    assert (stats.flush_writes, stats.flush_equal) == (1, 7)
    assert store.engine.status() == "clean"
    assert path.read_bytes() == before[: 2 * BLOCK] + new + before[3 * BLOCK :]


def test_what_is_not_in_memory_is_written_unseen(store: EngineStore) -> None:
    path = store.add("a", random.Random(1).randbytes(8 * BLOCK))
    store.open()
    store.write("a", 0, path.read_bytes())
    store.engine.commit()
    store.disk.read_cached = lambda *_: False  # type: ignore[method-assign]
    store.engine.flush.run(FlushOrder())
    assert store.device("a").stats.flush_writes == 8
    assert store.engine.status() == "clean"


def test_what_was_not_proved_is_written_again(store: EngineStore) -> None:
    path = store.add("a", random.Random(1).randbytes(8 * BLOCK))
    new = random.Random(2).randbytes(8 * BLOCK)
    store.open()
    store.write("a", 0, new)
    real = store.disk.sync_whole

    def fail(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink() == path:
            raise OSError(5, os.strerror(5))
        real(fd)

    store.disk.sync_whole = fail  # type: ignore[method-assign]
    with pytest.raises(FlushError):
        store.engine.flush.run(FlushOrder())
    assert path.read_bytes() == new  # but it may be nowhere else than in memory
    store.disk.sync_whole = real  # type: ignore[method-assign]
    store.engine.flush.run(FlushOrder())
    stats = store.device("a").stats
    assert (stats.flush_writes, stats.flush_equal) == (8, 0)
    assert store.engine.status() == "clean"
