"""Checksums of virtual blocks: a block that changed behind our back is not handed out."""

import logging

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letter, letters
from tests.support.sqlite_shell import SqliteShell
from thincow.engine.checksums import Checksums, default_window
from thincow.engine.window_cache import WindowCache
from thincow.errors import ChecksumError, StoreFailedError

CONTENT = "abcdefghijkl"


@pytest.fixture(params=[8, 16, 32, 64])
def bits(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.mark.parametrize("value", [0, 5, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1])
def test_sum_of_one_block_is_that_of_many(value, bits):
    sums = Checksums(WindowCache(lambda _first, length: default_window(length), 4, 8), bits)
    assert sums.verify(7, [value]) == []
    assert sums.verify_one(7, value)
    assert sums.verify_one(8, value)
    assert sums.verify(8, [value]) == []
    sums.record_one(9, value)
    assert sums.verify(9, [value]) == []
    other = value ^ 1
    assert sums.verify_one(9, other) == (sums.verify(9, [other]) == [])


@pytest.fixture
def checked(new_store: NewStore, bits: int) -> EngineStore:
    store = new_store(checksum_bits=bits)
    store.add("a", CONTENT)
    store.open()
    return store


def flip(store: EngineStore, path, offset: int) -> None:
    """Change a byte of a file; the engine shall not see that by the time of change."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def test_flipped_byte_in_cowdata_is_found(checked, caplog):
    checked.write_blocks("a", 2, "xyz")
    checked.restart()
    flip(checked, checked.cowdata, BLOCK + 3)
    assert checked.read_blocks("a", 0, 3) == "abx"
    with caplog.at_level(logging.ERROR), pytest.raises(ChecksumError, match=r"^a: .*byte 1536$"):
        checked.read_blocks("a", 3, 1)
    assert "a: checksum differs at byte 1536" in caplog.text
    assert checked.read_blocks("a", 4, 2) == "zf"
    assert checked.engine.statistics.checksum_errors >= 1


def test_flipped_byte_upstream_is_found(checked):
    checked.read("a")
    flip(checked, checked.upstream_dir / "a", 5 * BLOCK)
    assert checked.read_blocks("a") == "abcde"
    with pytest.raises(ChecksumError):
        checked.read_blocks("a", 5, 1)
    assert checked.read_blocks("a", 6) == "ghijkl"


def test_flipped_byte_upstream_is_found_after_a_restart(checked):
    checked.read("a")
    checked.close()
    flip(checked, checked.upstream_dir / "a", 5 * BLOCK)
    checked.open(force=True)
    with pytest.raises(ChecksumError):
        checked.read_blocks("a", 5, 1)


def test_flipped_byte_is_found_when_only_a_part_is_overwritten(checked):
    checked.read("a")
    flip(checked, checked.upstream_dir / "a", 5 * BLOCK)
    with pytest.raises(ChecksumError):
        checked.write("a", 5 * BLOCK + 9, b"1")
    checked.write_blocks("a", 5, "x")
    assert checked.read_blocks("a", 4, 3) == "exg"


def test_block_is_unchecked_until_it_was_read_or_written(checked):
    flip(checked, checked.upstream_dir / "a", 5 * BLOCK)
    assert checked.read_blocks("a", 5, 1) == "?"


def test_flipped_content_is_not_what_others_are_mapped_to(checked):
    checked.read("a")
    flip(checked, checked.upstream_dir / "a", 5 * BLOCK)
    checked.write_blocks("a", 0, "f")
    assert checked.read_blocks("a", 0, 1) == "f"


def test_checksums_of_a_failed_block_are_kept(checked):
    checked.read("a")
    flip(checked, checked.upstream_dir / "a", 0)
    for _ in range(2):
        with pytest.raises(ChecksumError):
            checked.read_blocks("a", 0, 1)
    flip(checked, checked.upstream_dir / "a", 0)
    assert checked.read_blocks("a") == CONTENT


def test_checksums_survive_many_commits(checked):
    for number in range(12):
        checked.write_blocks("a", number, "x" if number % 2 else "y")
        checked.engine.commit()
    checked.restart()
    assert checked.read_blocks("a") == "yxyxyxyxyxyx"
    assert checked.engine.statistics.checksum_errors == 0


def test_checksums_may_be_switched_on_later(new_store):
    store = new_store()
    store.add("a", CONTENT)
    store.open()
    store.write_blocks("a", 0, "x")
    store.restart(checksum_bits=32)
    flip(store, store.upstream_dir / "a", 5 * BLOCK)
    assert store.read_blocks("a") == "xbcde?ghijkl"
    flip(store, store.upstream_dir / "a", 6 * BLOCK)
    with pytest.raises(ChecksumError):
        store.read_blocks("a", 6, 1)


def test_checksums_of_another_width_are_begun_anew(new_store):
    store = new_store(checksum_bits=16)
    store.add("a", CONTENT)
    store.open()
    store.read("a")
    store.restart(checksum_bits=64)
    store.read("a", 0, 6 * BLOCK)
    store.restart(checksum_bits=None)
    flip(store, store.upstream_dir / "a", 0)
    with pytest.raises(ChecksumError):
        store.read_blocks("a", 0, 1)
    store.restart(checksum_bits=0, force=True)
    assert store.read_blocks("a", 0, 1) == "?"


def test_partial_last_block_is_checked(new_store):
    store = new_store(checksum_bits=32)
    store.add("a", letter("a") + b"rest")
    store.open()
    assert store.read("a") == letter("a") + b"rest"
    flip(store, store.upstream_dir / "a", BLOCK + 1)
    with pytest.raises(ChecksumError):
        store.read("a", BLOCK, 4)
    assert store.read("a", 0, BLOCK + 4) == letter("a")


def test_retroactive_look_back_keeps_checksums_right(new_store):
    store = new_store(checksum_bits=64, retroactive=True)
    store.add("a", CONTENT)
    store.add("b", "0000")
    store.open()
    store.write_blocks("b", 0, "abc")
    store.read("a", 3 * BLOCK, BLOCK)
    store.write_blocks("b", 3, "d")
    assert store.places("b") == [f"a {number}" for number in range(4)]
    store.restart()
    assert store.read("b") == letters("abcd")


def test_write_whose_sum_cannot_be_kept_changes_nothing(checked):
    checked.read("a")
    checked.close()
    with SqliteShell(checked.database) as shell:
        shell.run("UPDATE checksums SET sums = x'00'")
    checked.must_be_sound = False
    checked.open()
    with pytest.raises(StoreFailedError, match="checksums"):
        checked.write_blocks("a", 0, "x")
    assert checked.count_dirty() == 0
    assert checked.live_cow_blocks() == 0


def test_reading_keeps_no_sums_that_nothing_will_store(checked):
    checked.restart(read_only=True)
    assert checked.read_blocks("a") == CONTENT
    flip(checked, checked.upstream_dir / "a", 0)
    assert checked.read_blocks("a", 0, 1) != "a"  # no sum is known of it
