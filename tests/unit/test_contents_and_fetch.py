"""Contents that have to be fetched, blocks that cannot be read, files shorter than known."""

import errno
import os

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letters
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine.fetch import Fetch, Wanted, WouldBlock
from thincow.errors import BlockReadError, TooLargeError

CONTENT = "abcdefghijkl"


class BadDisk(ScriptedDisk):
    """Upstream blocks in `bad` (of the file `a`) cannot be read."""

    def __init__(self, *, is_cold: bool = False) -> None:
        super().__init__(is_cold=is_cold)
        self.bad: set[int] = set()

    def note(self, kind: str, name: str, offset: int = 0, length: int = 0) -> None:
        super().note(kind, name, offset, length)
        blocks = range(offset // BLOCK, -(-(offset + length) // BLOCK))
        if kind == "read" and name == "a" and self.bad & set(blocks):
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture(params=[False, True], ids=["cached", "cold"])
def disk(request: pytest.FixtureRequest) -> BadDisk:
    return BadDisk(is_cold=request.param)


@pytest.fixture
def served(new_store: NewStore, disk: BadDisk) -> EngineStore:
    store = new_store(disk=disk)
    store.add("a", CONTENT)
    store.add("b", "mnop")
    store.open()
    return store


def test_read_gives_the_good_prefix_before_a_bad_block(served, disk):
    disk.bad = {4, 7}
    assert served.read_blocks("a", 1, 8) == "bcd"
    assert served.read("a", BLOCK + 100, 8 * BLOCK) == letters(CONTENT)[BLOCK + 100 : 4 * BLOCK]
    with pytest.raises(BlockReadError, match="a: cannot read byte 2048"):
        served.read("a", 4 * BLOCK + 5, BLOCK)
    assert served.read_blocks("a", 5, 2) == "fg"
    assert served.read_blocks("a", 8) == "ijkl"


def test_read_errors_are_counted_by_block_and_device(served, disk):
    disk.bad = {4, 7}
    served.read("a", 0, 12 * BLOCK)
    assert served.device("a").stats.upstream_read_errors == 2
    assert served.device("b").stats.upstream_read_errors == 0


def test_read_of_a_block_that_was_fetched_is_counted_once(served, disk, monkeypatch):
    fetch = disk.read

    def read(fd: int, length: int, offset: int) -> bytes:
        disk.is_cold = False  # it is in the page cache then
        return fetch(fd, length, offset)

    monkeypatch.setattr(disk, "read", read)
    served.read("a", 2 * BLOCK, BLOCK)
    assert served.device("a").stats.upstream_reads == 1


def test_bad_block_can_be_overwritten(served, disk):
    disk.bad = {4}
    served.write_blocks("a", 4, "x")
    served.write_blocks("b", 0, "xe")
    assert served.read_blocks("a") == "abcdxfghijkl"
    assert served.read_blocks("b") == "xeop"
    assert served.device("a").stats.upstream_read_errors == 0


def test_bad_block_cannot_be_overwritten_in_part(served, disk):
    disk.bad = {4}
    for offset, length in ((4 * BLOCK + 1, 10), (3 * BLOCK, BLOCK + 1), (4 * BLOCK + 9, 2 * BLOCK)):
        with pytest.raises(BlockReadError):
            served.write("a", offset, b"?" * length)
    assert served.read_blocks("a", 0, 4) == "abcd"
    assert served.read_blocks("a", 5) == "fghijkl"
    assert served.count_dirty() == 0


def test_bad_blocks_do_not_spoil_deduplication_beside_them(served, disk):
    served.read("a")
    disk.bad = {2}
    served.write_blocks("b", 0, "abcd")
    assert served.places("b") == ["a 0", "a 1", "cow 0", "a 3"]


def test_file_that_became_shorter_has_bad_blocks(served):
    served.must_be_sound = False
    os.truncate(served.upstream_dir / "a", 5 * BLOCK + 100)
    assert served.read_blocks("a") == "abcde"
    with pytest.raises(BlockReadError):
        served.read_blocks("a", 5, 1)
    with pytest.raises(BlockReadError):
        served.read_blocks("a", 9, 1)


def test_reference_past_the_end_of_a_shrunken_device_is_bad_only_there(served):
    served.read("a")
    served.write_blocks("b", 0, "abcd")
    served.close()
    os.truncate(served.upstream_dir / "a", 2 * BLOCK)
    served.must_be_sound = False
    served.open(force=True)
    assert served.read_blocks("b") == "ab"
    with pytest.raises(BlockReadError):
        served.read_blocks("b", 2)


def test_reference_to_a_missing_device_is_bad(served):
    served.read("a")
    served.write_blocks("b", 1, "ab")
    served.close()
    (served.upstream_dir / "a").rename(served.root / "a")
    served.open(force=True)
    assert [device.name for device in served.engine.devices] == ["b"]
    assert served.read_blocks("b") == "m"
    assert served.read_blocks("b", 3, 1) == "p"
    served.write_blocks("b", 1, "ab")
    assert served.read_blocks("b") == "mabp"
    served.close()
    (served.root / "a").rename(served.upstream_dir / "a")
    served.open(force=False)
    assert served.read_blocks("a") == CONTENT


def test_requests_at_the_end_of_a_device(new_store, disk):
    store = new_store(disk=disk)
    content = letters("abc")[: 2 * BLOCK + 10]
    store.add("a", content)
    store.open()
    assert store.read("a", 0, 100 * BLOCK) == content
    assert store.read("a", 2 * BLOCK + 5, BLOCK) == content[2 * BLOCK + 5 :]
    assert store.read("a", len(content), 1) == b""
    assert store.read("a", 1 << 50, 1) == b""
    assert store.write("a", len(content), b"") == 0
    assert store.write("a", len(content) + 9, b"") == 0
    assert store.device("a").size_bytes == len(content)
    with pytest.raises(TooLargeError):
        store.write("a", BLOCK << 40, b"1")


def test_request_of_the_size_of_a_block_that_is_none(new_store):
    content = letters("abc")
    store = new_store()
    store.add("disk", content)
    store.open()
    for offset in (1, BLOCK + 1, 2 * BLOCK + 1, 3 * BLOCK - 1, 3 * BLOCK):
        assert store.read("disk", offset, BLOCK) == content[offset : offset + BLOCK]
    store.write("disk", 1, b"z" * BLOCK)
    assert store.read("disk", 0, 3 * BLOCK) == content[:1] + b"z" * BLOCK + content[1 + BLOCK :]


def test_device_without_a_byte(new_store):
    store = new_store()
    store.add("a", b"")
    store.add("b", "m")
    store.open()
    assert store.read("a") == b""
    assert store.write("a", 0, b"1") == 1
    assert store.read("a") == b"1"


class TestCold:
    """What needs a fetch; nothing is in the page cache."""

    @pytest.fixture
    def disk(self) -> BadDisk:
        return BadDisk(is_cold=True)

    def test_call_that_would_block_changes_nothing(self, served):
        engine, device = served.engine, served.device("a")
        with pytest.raises(WouldBlock) as blocked:
            engine.write(device, 5, b"12345")
        assert not engine.is_dirty
        fetch = blocked.value.fetch
        fetch.run()
        assert engine.write(device, 5, b"12345", fetch) == 5
        fetch.release()
        assert served.read("a", 4, 7) == letters("a")[4:5] + b"12345" + letters("a")[10:11]

    def test_fetch_is_not_confused_by_a_change_meanwhile(self, served):
        engine, device = served.engine, served.device("a")
        with pytest.raises(WouldBlock) as blocked:
            engine.read(device, 0, 4 * BLOCK)
        fetch = blocked.value.fetch
        fetch.run()
        served.write_blocks("a", 1, "x")
        with pytest.raises(WouldBlock) as blocked:
            engine.read(device, 0, 4 * BLOCK, fetch)
        assert blocked.value.fetch is fetch
        fetch.run()
        assert bytes(engine.read(device, 0, 4 * BLOCK, fetch)) == letters("axcd")
        fetch.release()

    def test_zeros_written_unseen_count_as_no_upstream_read(self, served):
        served.write_blocks("a", 0, "00")
        assert served.device("a").stats.upstream_reads == 0

    def test_bad_block_of_a_fetch_is_not_another_ones_fault(self, served, disk):
        engine, device = served.engine, served.device("a")
        disk.bad = {2}
        with pytest.raises(WouldBlock) as blocked:
            engine.read(device, 0, 4 * BLOCK)
        fetch = blocked.value.fetch
        fetch.run()
        served.write_blocks("a", 2, "0")
        assert bytes(engine.read(device, 0, 4 * BLOCK, fetch)) == letters("ab0d")
        fetch.release()

    def test_block_being_fetched_is_not_used_again(self, served):
        served.write_blocks("a", 0, "wxyz")
        served.engine.commit()
        engine, device = served.engine, served.device("a")
        with pytest.raises(WouldBlock) as blocked:
            engine.read(device, 0, 4 * BLOCK)
        fetch = blocked.value.fetch
        served.write_blocks("a", 0, "0000")
        engine.commit()
        served.write_blocks("b", 0, "qrst")
        assert served.places("b") == ["cow 4", "cow 5", "cow 6", "cow 7"]
        fetch.run()
        assert bytes(engine.read(device, 0, 4 * BLOCK, fetch)) == letters("0000")
        fetch.release()
        served.write_blocks("b", 0, "uv")
        assert served.places("b") == ["cow 0", "cow 1", "cow 6", "cow 7"]

    def test_each_call_gets_a_fetch_of_its_own(self, served):
        fetches = []
        for name in "ab":
            with pytest.raises(WouldBlock) as blocked:
                served.engine.read(served.device(name), 0, BLOCK)
            fetches.append(blocked.value.fetch)
        assert fetches[0] is not fetches[1]
        for name, fetch in zip("ab", fetches, strict=True):
            fetch.run()
            content = bytes(served.engine.read(served.device(name), 0, BLOCK, fetch))
            assert content == letters({"a": "a", "b": "m"}[name])
            fetch.release()

    def test_errors_are_counted_once_whatever_is_fetched_later(self, served, disk):
        served.write_blocks("a", 0, "x")
        disk.bad = {4}
        engine, device = served.engine, served.device("a")
        fetch: Fetch | None = None
        for block in (1, 2, 3):
            try:
                engine.read(device, 0, 6 * BLOCK, fetch)
            except WouldBlock as blocked:
                fetch = blocked.fetch
                fetch.run()
            served.write_blocks("a", block, "y")
        assert fetch is not None
        fetch.release()
        assert device.stats.upstream_read_errors == 1


def test_fetch_finds_parts_of_what_it_has_read(tmp_path):
    (tmp_path / "a").write_bytes(letters("abcd"))
    disk = BadDisk()
    fd = disk.open(tmp_path / "a", os.O_RDONLY)
    disk.bad = {2}
    unpinned = []
    fetch = Fetch(disk, BLOCK, lambda *run: unpinned.append(run))
    fetch.want(Wanted(100, 4, fd, 0, 4 * BLOCK))
    assert fetch.is_waiting
    fetch.run()
    assert not fetch.is_waiting
    assert fetch.find(100, 5) is None
    assert fetch.find(99, 2) is None
    for first, length, bad in ((0, 4, {2}), (0, 2, set()), (1, 2, {1}), (2, 1, {0}), (3, 1, set())):
        content, found = fetch.find(100 + first, length)
        assert found == bad
        for index in set(range(length)) - bad:
            assert content[index * BLOCK : (index + 1) * BLOCK] == letters("abcd"[first + index])
    fetch.release()
    fetch.release()
    assert unpinned == [(100, 4)]
    disk.close(fd)
