"""How little space things take: exact block counts, measured at `cowdata` after closing."""

import random

import pytest

from tests.support.engines import EngineStore, NewStore
from thincow.engine.options import Tuning

SIZE = 4096
HALF = 16


def yes(blocks: int) -> bytes:
    return b"y\n" * (blocks * SIZE // 2)


def unique(seed: int, blocks: int) -> bytes:
    return random.Random(seed).randbytes(blocks * SIZE)


@pytest.fixture(params=[4, 4096])
def disks(new_store: NewStore, request: pytest.FixtureRequest) -> EngineStore:
    """An open store of two devices with 32 blocks; windows are small, then as they are."""
    store = new_store(block_size=SIZE, tuning=Tuning(window_blocks=request.param))
    store.add("a", unique(1, 2 * HALF))
    store.add("b", unique(2, 2 * HALF))
    store.open()
    return store


def expect_stored(store: EngineStore, blocks: int) -> None:
    store.close()
    assert store.cowdata.stat().st_size <= blocks * SIZE
    assert store.stored_blocks() <= blocks


def test_zeros_take_nothing(disks):
    disks.write("a", 0, bytes(16 * SIZE))
    expect_stored(disks, 0)


def test_repeated_output_takes_two_blocks_at_most(disks):
    disks.write("a", 0, yes(16))
    expect_stored(disks, 1)


def test_repeated_output_in_small_pieces_takes_two_blocks_at_most(disks):
    content = b"yes, please\n" * (16 * SIZE // 12)
    for at in range(0, len(content), 1000):
        disks.write("b", at, content[at : at + 1000])
    disks.write("a", 0, yes(16))
    disks.close()
    disks.open()
    # Lines of 12 bytes repeat after 3 blocks; the last block is filled up with what was there.
    expect_stored(disks, 1 + 3 + 1)


def test_half_of_a_device_copied_over_the_other_takes_nothing(disks):
    for block in range(HALF):
        disks.write("a", (HALF + block) * SIZE, disks.read("a", block * SIZE, SIZE))
    assert disks.read("a") == unique(1, 2 * HALF)[: HALF * SIZE] * 2
    expect_stored(disks, 0)


@pytest.mark.parametrize("piece", [1, 5, 2 * HALF])
def test_devices_swapped_take_nothing(disks, piece):
    first, second = unique(1, 2 * HALF), unique(2, 2 * HALF)
    disks.read("a")
    disks.read("b")
    for at in range(0, len(first), piece * SIZE):
        disks.write("a", at, second[at : at + piece * SIZE])
        disks.write("b", at, first[at : at + piece * SIZE])
    disks.restart()
    assert disks.read("a") == second
    assert disks.read("b") == first
    assert disks.places("a") == [f"b {number}" for number in range(2 * HALF)]
    expect_stored(disks, 0)


@pytest.mark.parametrize("sync", [False, True])
def test_block_rewritten_with_the_same_takes_one_block(disks, sync):
    new = unique(3, 1)
    for _ in range(100):
        disks.write("a", 0, new)
        if sync:
            disks.engine.commit()
    expect_stored(disks, 1)


@pytest.mark.parametrize("sync", [False, True])
def test_block_that_was_freed_is_used_again(disks, sync):
    disks.read("b")
    disks.write("a", 0, unique(3, 1))
    if sync:
        disks.engine.commit()
    disks.write("a", 0, disks.read("b", 0, SIZE))
    if sync:
        disks.engine.commit()
    disks.write("a", 5 * SIZE, unique(4, 1))
    expect_stored(disks, 1)


def test_blocks_that_were_freed_before_a_restart_are_used_again(disks):
    disks.write("a", 0, unique(3, 8))
    disks.engine.commit()
    for block in (1, 2, 5):
        disks.write("a", block * SIZE, bytes(SIZE))
    disks.restart()
    disks.write("b", 0, unique(4, 3))
    assert disks.live_cow_blocks() == 8
    expect_stored(disks, 8)


def test_freed_space_is_given_back_though_it_is_not_at_the_end(disks):
    disks.write("a", 0, unique(3, 8))
    disks.write("a", 0, bytes(6 * SIZE))
    disks.close()
    assert disks.stored_blocks() == 2
    assert disks.cowdata.stat().st_size == 8 * SIZE


def test_rewritten_content_takes_no_more_than_the_live_blocks(disks):
    contents = [unique(seed, 6) for seed in (3, 4, 3, 5, 3, 4)]
    for content in contents:
        disks.write("a", 0, content)
        disks.engine.commit()
    assert disks.read("a", 0, 6 * SIZE) == contents[-1]
    disks.close()
    assert disks.stored_blocks() == 6


def test_written_back_data_is_identity(disks):
    for name, seed in (("a", 1), ("b", 2)):
        disks.write(name, 0, disks.read(name))
        disks.write(name, 0, unique(seed + 5, 2 * HALF))
        disks.write(name, 0, unique(seed, 2 * HALF))
    assert disks.count_dirty() == 0
    assert disks.engine.status() == "clean"
    expect_stored(disks, 0)


def test_blocks_restored_backwards_are_identity(disks):
    content = unique(1, 2 * HALF)
    new = unique(6, 2 * HALF)
    disks.read("a")
    blocks = [slice(at, at + SIZE) for at in range(0, len(content), SIZE)]
    for block in reversed(blocks):
        disks.write("a", block.start, new[block])
    disks.restart()
    assert disks.read("a") == new
    assert disks.count_dirty() == 2 * HALF
    for block in reversed(blocks):
        disks.write("a", block.start, content[block])
    assert disks.read("a") == content
    assert disks.count_dirty() == 0
    expect_stored(disks, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_blocks_restored_without_reading_first_are_at_most_stored_once(disks, order):
    content, new = unique(1, 2 * HALF), unique(6, 2 * HALF)
    for at in list(range(0, len(content), SIZE))[::order]:
        disks.write("a", at, new[at : at + SIZE])
        disks.write("a", at, content[at : at + SIZE])
    assert disks.read("a") == content
    disks.close()
    assert disks.stored_blocks() == 2 * HALF


@pytest.mark.parametrize("piece", [1, 3, 24])
@pytest.mark.parametrize("seed", range(4))
def test_tiny_hash_table_never_harms_and_retroactive_makes_up_for_it(new_store, seed, piece):
    blocks = 24  # the table holds 16
    store = new_store(
        block_size=SIZE, hash_table_bytes=256, retroactive=True, tuning=Tuning(window_blocks=8)
    )
    content = unique(seed, blocks)
    store.add("a", content)
    store.open()
    for at in range(0, blocks * SIZE, piece * SIZE):
        store.read("a", at, piece * SIZE)
        store.engine.commit()
    wiped = unique(seed + 100, blocks)
    for at in range(0, blocks * SIZE, piece * SIZE):
        store.write("a", at, wiped[at : at + piece * SIZE])
        store.engine.commit()
    store.restart()
    assert store.engine.hash_usage()[0] <= 16
    assert store.read("a") == wiped
    for at in range(0, blocks * SIZE, piece * SIZE):
        store.write("a", at, content[at : at + piece * SIZE])
        store.engine.commit()
    assert store.read("a") == content
    assert store.live_cow_blocks() == 0
    assert store.count_dirty() == 0


def test_contents_that_a_killed_mount_never_committed_take_nothing(disks):
    disks.write("a", 0, unique(3, 8))
    disks.engine.commit()
    disks.write("a", SIZE, bytes(5 * SIZE))
    disks.restart()
    disks.write("b", 0, unique(4, 5))
    disks.kill()
    disks.open()
    assert disks.read("b") == unique(2, 2 * HALF)
    disks.close()
    assert disks.stored_blocks() == 3


@pytest.mark.parametrize("is_killed", [True, False])
def test_contents_freed_just_before_the_end_take_nothing(disks, is_killed):
    disks.write("a", 0, unique(3, 2 * HALF))
    disks.engine.commit()
    disks.write("a", SIZE, bytes((2 * HALF - 2) * SIZE))
    disks.engine.commit()  # too little to be punched at once
    if is_killed:
        disks.kill()
        disks.open()
    disks.close()
    assert disks.stored_blocks() == 2
