"""Quotas: past them writes that need space are refused, and everything else goes on."""

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore
from thincow.errors import CommitError, NoSpaceError

BLOCKS = 4000
MAX_METADATA_BYTES = 64 << 10


def content_of(block: int) -> bytes:
    return (block + 1).to_bytes(4, "big") * (BLOCK // 4)


def test_quota_of_contents_gives_no_space_and_everything_goes_on(new_store: NewStore):
    store = new_store(max_cow_blocks=3)
    store.add("a", "abcdefgh")
    store.open()
    store.write_blocks("a", 0, "xy")
    with pytest.raises(NoSpaceError):
        store.write_blocks("a", 2, "uvw")
    assert store.read_blocks("a") == "xycdefgh"
    store.write_blocks("a", 2, "x0")
    store.write_blocks("a", 7, "z")
    with pytest.raises(NoSpaceError):
        store.write_blocks("a", 6, "w")
    store.write_blocks("a", 7, "0")
    store.engine.commit()
    store.write_blocks("a", 6, "w")
    store.restart()
    assert store.read_blocks("a") == "xyx0efw0"
    assert store.cowdata.stat().st_size <= 3 * BLOCK


def test_blocks_freed_since_the_last_commit_make_room_for_new_ones(new_store: NewStore):
    store = new_store(max_cow_blocks=4)
    store.add("a", "abcdefghijkl")
    store.open()
    store.write_blocks("a", 0, "wxyz")
    store.engine.commit()
    store.write_blocks("a", 0, "0000")
    store.write_blocks("a", 4, "uvst")
    store.restart()
    assert store.read_blocks("a") == "0000uvstijkl"
    assert store.cowdata.stat().st_size == 4 * BLOCK


def fill_metadata(store: EngineStore) -> int:
    """Write until a commit fails; return the number of blocks that hold new content durably."""
    for first in range(0, BLOCKS, 100):
        # Every second block, so that each takes a row.
        for block in range(first, first + 100, 2):
            store.write_blocks("a", block, chr(97 + block // 2 % 26))
        try:
            store.engine.commit()
        except CommitError:
            return first
    raise AssertionError("the quota was never reached")


def test_quota_of_metadata_gives_no_space_and_reads_go_on(new_store: NewStore):
    store = new_store(max_metadata_bytes=MAX_METADATA_BYTES)
    store.add("a", b"".join(content_of(block) for block in range(BLOCKS)))
    engine = store.open()
    durable = fill_metadata(store)
    assert durable >= 100
    with pytest.raises(NoSpaceError):
        store.write_blocks("a", 1, "x")
    assert store.read("a", BLOCK, BLOCK) == content_of(1)
    assert store.read_blocks("a", durable, 1) == chr(97 + durable // 2 % 26)
    store.forget()
    with pytest.raises(CommitError):
        engine.close()
    assert store.database.stat().st_size <= MAX_METADATA_BYTES
    store.open(max_metadata_bytes=None)
    for block in range(0, durable, 2):
        assert store.read_blocks("a", block, 1) == chr(97 + block // 2 % 26)
    assert store.read("a", durable * BLOCK, BLOCK) == content_of(durable)
    store.write_blocks("a", 1, "x")
