import pytest

from tests.support.disk_model import DiskModel

BLOCK = 16
OLD = b"abcdefghijklmnop"
NEW = b"ABCDEFGHIJKLMNOP"


def after_write(offset: int = 4, length: int = 8, splits_writes: bool = True) -> DiskModel:
    """A model of two old blocks, the first of which was written to."""
    model = DiskModel([OLD * 2], BLOCK, splits_writes)
    model.write(0, offset, NEW[offset : offset + length])
    return model


@pytest.mark.parametrize("splits_writes", [False, True])
@pytest.mark.parametrize("found", [OLD, b"abcdEFGHIJKLmnop"])
def test_crash_may_leave_a_block_old_or_new(found: bytes, splits_writes: bool) -> None:
    assert after_write(splits_writes=splits_writes).adopt_after_crash(0, found + OLD) is None


@pytest.mark.parametrize("found", [b"abcdEfghijklmnop", b"abcdEFGHIJKlmnop"])
def test_crash_may_leave_the_beginning_of_a_split_write(found: bytes) -> None:
    model = after_write()
    assert model.adopt_after_crash(0, found + OLD) is None
    assert model.devices[0] == found + OLD
    assert after_write(splits_writes=False).adopt_after_crash(0, found + OLD) == 0


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(b"abcdefghIJKLmnop", id="end"),
        pytest.param(b"abcdefGHIJklmnop", id="middle"),
        pytest.param(b"abcdEFghIJklmnop", id="two parts"),
        pytest.param(b"abcdEFGHIJKLMnop", id="too much"),
        pytest.param(b"abcDEFGHijklmnop", id="too early"),
        pytest.param(b"abcdEFGH\0\0\0\0mnop", id="zeros behind"),
        pytest.param(b"abcdEFGHijklmnoP", id="something else behind"),
    ],
)
def test_crash_may_leave_no_other_mixture(found: bytes) -> None:
    assert after_write().adopt_after_crash(0, found + OLD) == 0


def test_torn_write_leaves_behind_it_what_was_there_before_that_write() -> None:
    def written_twice() -> DiskModel:
        model = after_write(0, BLOCK)
        model.write(0, 0, b"1" * BLOCK)
        return model

    for found in (b"ABCDefghijklmnop", b"1111EFGHIJKLMNOP"):
        assert written_twice().adopt_after_crash(0, found + OLD) is None
    for found in (b"1111efghijklmnop", b"ABCD111111111111", b"1111EFGHIJKLmnop"):
        assert written_twice().adopt_after_crash(0, found + OLD) == 0


def test_torn_write_is_possible_only_until_the_next_sync() -> None:
    model = after_write()
    model.sync()
    assert model.adopt_after_crash(0, b"abcdEFGHijklmnop" + OLD) == 0
    model = after_write()
    model.sync()
    model.write(0, BLOCK, NEW)
    assert model.adopt_after_crash(0, b"abcdEFGHijklmnop" + OLD) == 0


def test_torn_write_ends_in_one_block_only() -> None:
    def written_across() -> DiskModel:
        model = DiskModel([OLD * 3], BLOCK, splits_writes=True)
        model.write(0, 8, NEW[8:] + NEW)
        return model

    first, second = b"abcdefghIJklmnop", b"ABcdefghijklmnop"
    for found in (first + OLD, b"abcdefghIJKLMNOP" + second):
        assert written_across().adopt_after_crash(0, found + OLD) is None
    assert written_across().adopt_after_crash(0, first + second + OLD) == BLOCK


def test_truncation_is_never_torn() -> None:
    model = DiskModel([OLD * 2], BLOCK, splits_writes=True)
    model.truncate(0, 4)
    assert model.adopt_after_crash(0, OLD[:8]) == 8
    model = DiskModel([OLD * 2], BLOCK, splits_writes=True)
    model.truncate(0, 4)
    model.truncate(0, 2 * BLOCK)
    assert model.adopt_after_crash(0, OLD[:8] + bytes(24)) == 0


def grown(size: int, offset: int, splits_writes: bool = True) -> DiskModel:
    """A model of a device that a write has made grow to two and a half blocks."""
    model = DiskModel([OLD[:size]], BLOCK, splits_writes)
    model.write(0, offset, (NEW * 3)[offset : BLOCK * 5 // 2])
    return model


@pytest.mark.parametrize("size", [5, 7, BLOCK, BLOCK + 1, 2 * BLOCK, BLOCK * 5 // 2 - 1])
@pytest.mark.parametrize("offset", [2, 4])
def test_size_may_be_one_on_the_way_of_a_split_write(offset: int, size: int) -> None:
    found = OLD[:offset] + (NEW * 3)[offset:size]
    assert grown(4, offset).adopt_after_crash(0, found) is None
    assert grown(4, offset, splits_writes=False).adopt_after_crash(0, found) == size


@pytest.mark.parametrize("size", [7, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1])
def test_size_on_the_way_comes_with_all_that_was_written_until_there(size: int) -> None:
    found = (OLD[:4] + (NEW * 3)[4:size])[: size - 1] + b"\0"
    assert grown(4, 4).adopt_after_crash(0, found) == size


@pytest.mark.parametrize("size", [4, BLOCK * 5 // 2])
def test_write_that_is_torn_behind_the_old_end_leaves_no_other_size(size: int) -> None:
    found = (OLD[:4] + NEW[4:8] + bytes(8) + (NEW * 3)[BLOCK:])[:size]
    assert grown(4, 4).adopt_after_crash(0, found) == (None if size == 4 else 0)
    found = (OLD[:2] + NEW[2:3] + OLD[3:4] + bytes(12) + bytes(BLOCK * 2))[:size]
    assert grown(4, 2).adopt_after_crash(0, found) == (None if size == 4 else 0)


def test_size_on_the_way_leaves_no_other_block_torn() -> None:
    found = OLD[:4] + NEW[4:8] + bytes(8) + NEW + NEW[:4]
    assert grown(4, 4).adopt_after_crash(0, found) == 0


@pytest.mark.parametrize("size", [0, 3, 6, 10, 11, BLOCK * 5 // 2 + 1, 3 * BLOCK])
def test_size_may_be_no_other(size: int) -> None:
    # A write behind the end: its first part fills the gap with zeros and writes something.
    found = (OLD[:4] + bytes(6) + (NEW * 3)[10:])[:size]
    answer = None if size == 11 else size
    assert grown(4, 10).adopt_after_crash(0, found) == answer


def test_size_on_the_way_is_forgotten_by_a_sync() -> None:
    model = grown(4, 4)
    model.sync()
    assert model.adopt_after_crash(0, OLD[:4] + NEW[4:8]) == 8
