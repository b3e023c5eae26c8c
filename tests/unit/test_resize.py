"""Devices that grow and are cut, and devices without upstream; flushes of both."""

import errno
import os
from pathlib import Path

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letters, resize_once
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine import fsck
from thincow.engine.flush_order import FlushOrder
from thincow.engine.options import Tuning
from thincow.errors import (
    BlockReadError,
    CommitError,
    ConfigurationError,
    FixedSizeError,
    FlushError,
    NoSpaceError,
    ReadOnlyError,
    TooLargeError,
    UpstreamChangedError,
)


@pytest.fixture
def served(store: EngineStore) -> EngineStore:
    """A store with a device of six and a half blocks, open."""
    store.add("a", letters("abcdefg")[: 6 * BLOCK + BLOCK // 2])
    store.open()
    return store


def upstream_of(store: EngineStore, name: str = "a") -> bytes:
    return (store.upstream_dir / name).read_bytes()


class TestGrowing:
    def test_grown_part_is_zero_and_takes_no_extent(self, served: EngineStore) -> None:
        before = served.read("a")
        served.resize("a", 1 << 40)
        assert served.device("a").size_bytes == 1 << 40
        assert served.read("a", 0, len(before) + 9 * BLOCK) == before + bytes(9 * BLOCK)
        assert served.read("a", (1 << 40) - 5, 99) == bytes(5)
        assert served.count_extents() == 0

    def test_write_behind_the_end_leaves_a_gap_of_zeros(self, served: EngineStore) -> None:
        before = served.read("a")
        served.write("a", 20 * BLOCK + 7, b"behind")
        expected = before.ljust(20 * BLOCK + 7, b"\0") + b"behind"
        assert served.read("a") == expected
        served.restart()
        assert served.read("a") == expected
        assert served.count_extents() == 1

    def test_write_across_the_end_goes_on_in_the_last_block(self, served: EngineStore) -> None:
        before = served.read("a")
        served.write("a", len(before) - 3, b"across")
        assert served.read("a") == before[:-3] + b"across"

    def test_zeros_written_behind_the_end_take_no_extent(self, served: EngineStore) -> None:
        served.write("a", 10 * BLOCK, bytes(10 * BLOCK))
        assert served.device("a").size_bytes == 20 * BLOCK
        assert served.count_extents() == 0

    def test_write_that_fails_leaves_the_size(self, store: EngineStore) -> None:
        store.add("a", "ab")
        store.open(max_cow_blocks=0)
        with pytest.raises(NoSpaceError):
            store.write_blocks("a", 5, "x")
        assert store.device("a").size_bytes == 2 * BLOCK
        assert store.write("a", 9 * BLOCK, b"") == 0
        assert store.device("a").size_bytes == 2 * BLOCK

    def test_content_behind_the_end_is_found_and_shared(self, served: EngineStore) -> None:
        served.read("a")
        served.write_blocks("a", 10, "abcxyz")
        served.write_blocks("a", 20, "xyz")
        places = served.places("a")
        assert places[10:13] == ["a 0", "a 1", "a 2"]
        assert places[20:23] == places[13:16]
        assert served.live_cow_blocks() == 3

    def test_size_has_a_limit(self, served: EngineStore) -> None:
        with pytest.raises(TooLargeError):
            served.resize("a", (BLOCK << 40) + 1)
        served.resize("a", BLOCK << 40)
        assert served.write("a", (BLOCK << 40) - 2, b"abc") == 2


class TestCutting:
    @pytest.mark.parametrize("size", [0, 1, BLOCK, 3 * BLOCK - 1, 3 * BLOCK, 6 * BLOCK + 1])
    def test_what_was_cut_is_zero_when_it_grows_again(self, served: EngineStore, size: int) -> None:
        served.write_blocks("a", 1, "x")
        served.write_blocks("a", 4, "a0")
        before = served.read("a")
        served.resize("a", size)
        assert served.read("a") == before[:size]
        served.resize("a", 9 * BLOCK)
        assert served.read("a") == before[:size].ljust(9 * BLOCK, b"\0")
        served.restart()
        assert served.read("a") == before[:size].ljust(9 * BLOCK, b"\0")

    def test_cut_gives_blocks_back(self, served: EngineStore) -> None:
        served.write_blocks("a", 0, "uvwxyz")
        served.resize("a", 2 * BLOCK)
        assert served.live_cow_blocks() == 2
        served.resize("a", 0)
        assert served.live_cow_blocks() == 0
        served.close()
        assert served.cowdata.stat().st_size == 0

    def test_content_of_before_is_not_taken_for_identity(self, served: EngineStore) -> None:
        before = served.read("a")
        served.resize("a", 0)
        served.write("a", 0, before)
        assert served.read("a") == before
        served.restart()
        assert served.read("a") == before

    def test_others_go_on_showing_what_was_cut(self, served: EngineStore) -> None:
        served.read("a")
        served.write_blocks("a", 0, "ef")
        assert served.places("a")[:2] == ["a 4", "a 5"]
        served.resize("a", 2 * BLOCK)
        served.restart()
        assert served.read_blocks("a") == "ef"

    def test_large_cut_takes_several_calls(self, new_store: NewStore) -> None:
        store = new_store(tuning=Tuning(window_blocks=1, cached_windows=1, max_reserve_bytes=4096))
        store.add("a", b"")
        store.open()
        for block in range(0, 600, 2):
            store.write_blocks("a", block, "x")
        device = store.device("a")
        sizes = [device.size_bytes]
        while sizes[-1] > 10:
            sizes.append(resize_once(store.engine, device, 10))
            assert store.read("a", 0, 2 * BLOCK) == letters("x0")[: device.size_bytes]
        assert len(sizes) == 4
        assert sizes == sorted(sizes, reverse=True)
        assert store.live_cow_blocks() == 1

    def test_cut_of_what_is_not_committed_yet(self, served: EngineStore) -> None:
        served.write_blocks("a", 0, "uv")
        commit = served.engine.freeze()
        assert commit is not None
        served.write_blocks("a", 8, "wx")
        served.resize("a", BLOCK)
        commit.run()
        served.engine.finish(commit)
        assert served.read_blocks("a") == "u"
        served.restart()
        assert served.read_blocks("a") == "u"
        assert served.live_cow_blocks() == 1

    def test_cut_survives_a_commit_that_fails(self, new_store: NewStore) -> None:
        disk = ScriptedDisk(with_sqlite=True)
        store = new_store(disk=disk)
        store.add("a", "abcd")
        store.open()
        store.write_blocks("a", 2, "xy")
        store.engine.commit()
        store.resize("a", 3 * BLOCK)
        disk.fail("write", "metadata.db-wal", errno.ENOSPC)
        with pytest.raises(CommitError):
            store.engine.commit()
        disk.mend()
        assert store.read_blocks("a") == "abx"
        store.engine.commit()
        store.restart()
        assert store.read_blocks("a") == "abx"

    def test_checksums_of_what_was_cut_are_forgotten(self, store: EngineStore) -> None:
        store.add("a", "abcdefgh")
        store.open(checksum_bits=32)
        store.read("a")
        store.write_blocks("a", 6, "xy")
        store.resize("a", 2 * BLOCK + 9)
        store.resize("a", 12 * BLOCK)
        expected = letters("abc")[: 2 * BLOCK + 9].ljust(12 * BLOCK, b"\0")
        assert store.read("a") == expected
        store.restart()
        assert store.read("a") == expected
        assert store.engine.statistics.checksum_errors == 0
        store.close()
        report = fsck.check(store.data_dir, None, store.upstream_dir, deep=True)
        assert report.is_clean
        assert report.facts["blocks_not_readable"] == 0

    def test_rest_of_a_bad_block_cannot_be_cut_off(self, new_store: NewStore) -> None:
        disk = ScriptedDisk(with_sqlite=False)
        disk.is_cold = lambda: True
        store = new_store(disk=disk)
        store.add("a", "abcd")
        store.open()
        disk.fail("read", "a", errno.EIO)
        with pytest.raises(BlockReadError):
            store.resize("a", BLOCK + 5)
        assert store.device("a").size_bytes == 4 * BLOCK
        store.resize("a", BLOCK)
        disk.mend()
        assert store.read_blocks("a") == "a"

    def test_read_only_store_keeps_its_sizes(self, served: EngineStore) -> None:
        served.restart(read_only=True)
        with pytest.raises(ReadOnlyError):
            served.resize("a", 0)


class TestWithoutUpstream:
    def test_extra_device_is_empty_and_stays(self, served: EngineStore) -> None:
        served.restart(extra_devices={"big": 10 << 40})
        assert [device.name for device in served.engine.devices] == ["a", "big"]
        assert served.read("big", 5 << 40, 99) == bytes(99)
        served.write("big", 5 << 40, b"something")
        served.restart(extra_devices={})
        assert served.device("big").size_bytes == 10 << 40
        assert served.read("big", 5 << 40, 10) == b"something\0"
        served.resize("big", 0)
        served.restart()
        assert served.read("big") == b""

    def test_copies_in_it_cost_nothing(self, store: EngineStore) -> None:
        store.upstream_dir.rmdir()
        store.open(upstream_dir=None, extra_devices={"pool": 64 * BLOCK})
        for at in (0, 20, 40):
            store.write_blocks("pool", at, "abcdefghijkl")
        assert store.live_cow_blocks() == 12
        store.restart(extra_devices={})
        assert store.read_blocks("pool", 40, 12) == "abcdefghijkl"
        assert store.engine.status() == "clean"

    def test_same_option_again_changes_nothing(self, served: EngineStore) -> None:
        served.restart(extra_devices={"b": 100})
        served.resize("b", 50)
        served.restart()
        assert served.device("b").size_bytes == 50

    def test_name_of_an_upstream_device_is_refused(self, served: EngineStore) -> None:
        served.close()
        with pytest.raises(ConfigurationError, match="a is an upstream device"):
            served.open(extra_devices={"a": 100})

    def test_upstream_with_its_name_is_refused(self, served: EngineStore) -> None:
        served.restart(extra_devices={"b": 100})
        served.close()
        (served.upstream_dir / "b").write_bytes(b"new")
        with pytest.raises(UpstreamChangedError, match="was a device without upstream"):
            served.open(extra_devices={})

    def test_store_without_any_device_is_not_made(self, store: EngineStore) -> None:
        with pytest.raises(ConfigurationError, match="give --upstream"):
            store.open(upstream_dir=None)

    def test_flush_leaves_it_alone(self, served: EngineStore) -> None:
        served.restart(extra_devices={"b": 4 * BLOCK})
        served.write_blocks("b", 0, "ab")
        served.write_blocks("a", 0, "x")
        served.engine.flush.run(FlushOrder())
        assert served.engine.status() == "clean"
        assert served.read_blocks("b") == "ab00"
        assert upstream_of(served)[:BLOCK] == letters("x")


def test_block_device_has_a_fixed_size(served: EngineStore) -> None:
    served.device("a").type = "block"
    with pytest.raises(FixedSizeError):
        served.resize("a", 0)
    served.resize("a", served.device("a").size_bytes)


class TestFlush:
    def check(self, store: EngineStore, shown: bytes) -> None:
        assert store.engine.status() == "ready"
        store.engine.flush.run(FlushOrder())
        assert store.read("a") == shown
        assert upstream_of(store) == shown
        assert store.engine.status() == "clean"
        store.restart()
        assert store.read("a") == shown
        assert store.engine.status() == "clean"
        store.close()
        assert fsck.check(store.data_dir, None, store.upstream_dir, deep=True).is_clean
        store.open()

    def test_growth_reaches_upstream_as_a_hole(self, served: EngineStore) -> None:
        before = served.read("a")
        served.resize("a", 1 << 24)
        self.check(served, before.ljust(1 << 24, b"\0"))
        assert (served.upstream_dir / "a").stat().st_blocks * 512 < 1 << 20

    def test_appended_content_reaches_upstream(self, served: EngineStore) -> None:
        served.write("a", 20 * BLOCK + 3, b"behind")
        served.write_blocks("a", 2, "x")
        self.check(served, served.read("a"))

    @pytest.mark.parametrize("size", [0, 1, 2 * BLOCK, 3 * BLOCK - 7, 6 * BLOCK + 3])
    def test_cut_reaches_upstream(self, served: EngineStore, size: int) -> None:
        served.resize("a", size)
        self.check(served, letters("abcdefg")[:size])

    @pytest.mark.parametrize("size", [0, 1, 2 * BLOCK, 3 * BLOCK - 7])
    def test_cut_that_grew_again_reaches_upstream(self, served: EngineStore, size: int) -> None:
        served.resize("a", size)
        served.write("a", 9 * BLOCK + 5, b"end")
        served.write_blocks("a", 4, "e")
        self.check(served, served.read("a"))

    def test_moved_contents_of_what_was_cut_come_first(self, served: EngineStore) -> None:
        served.read("a")
        served.write_blocks("a", 0, "fedc")
        served.resize("a", 4 * BLOCK)
        assert served.places("a") == ["a 5", "a 4", "a 3", "a 2"]
        self.check(served, letters("fedc"))

    def test_cycle_across_what_was_cut_and_grew_again(self, served: EngineStore) -> None:
        served.read("a")
        served.write_blocks("a", 0, "fe")
        served.resize("a", 2 * BLOCK)
        served.resize("a", 6 * BLOCK)
        served.write_blocks("a", 4, "fe")
        self.check(served, letters("fe00fe"))

    def test_cut_waits_for_a_device_that_is_not_flushed(self, served: EngineStore) -> None:
        served.close()
        served.add("b", "0000")
        served.open()
        served.read("a")
        served.write_blocks("b", 0, "ef")
        served.resize("a", 2 * BLOCK)
        with pytest.raises(FlushError, match="flush all devices"):
            served.engine.flush.run(FlushOrder(names=frozenset("a")))
        assert len(upstream_of(served)) == 6 * BLOCK + BLOCK // 2
        assert served.read_blocks("b") == "ef00"
        served.engine.flush.run(FlushOrder())
        assert served.engine.status() == "clean"
        assert upstream_of(served) == letters("ab")
        assert upstream_of(served, "b") == letters("ef00")

    def test_growth_without_space_is_an_error_before_anything_is_written(
        self, new_store: NewStore
    ) -> None:
        disk = ScriptedDisk(with_sqlite=False)
        store = new_store(disk=disk)
        path = store.add("a", "abcd")
        store.open()
        store.write_blocks("a", 0, "x")
        store.write_blocks("a", 9, "y")
        disk.fail("truncate", "a", errno.EFBIG)
        with pytest.raises(FlushError, match="a cannot be given 5120 bytes: File too large"):
            store.engine.flush.run(FlushOrder())
        assert path.read_bytes() == letters("abcd")
        disk.mend()
        assert store.read_blocks("a") == "xbcd00000y"
        store.engine.flush.run(FlushOrder())
        assert path.read_bytes() == letters("xbcd00000y")

    @pytest.mark.parametrize("size", [2 * BLOCK + 9, 30 * BLOCK])
    @pytest.mark.parametrize("at", range(8))
    def test_client_that_resizes_between_the_steps(
        self, served: EngineStore, size: int, at: int
    ) -> None:
        served.resize("a", size)
        served.write_blocks("a", 1, "x")
        step = 0

        def client() -> None:
            nonlocal step
            if step == at:
                served.resize("a", 6 * BLOCK + BLOCK // 2)
            if step == at + 1:
                served.write_blocks("a", 8, "y")
            step += 1

        served.engine.flush.run(FlushOrder(), client)
        expected = letters("axcdefg")[: min(size, 6 * BLOCK + BLOCK // 2)]
        assert served.read("a") == expected.ljust(8 * BLOCK, b"\0") + letters("y")
        if served.engine.status() == "ready":
            served.engine.flush.run(FlushOrder())
        assert upstream_of(served) == served.read("a")


class TestCutFlush:
    """Sizes that a flush has given upstream when it is cut."""

    def flush_until_resized(self, store: EngineStore, path: Path) -> None:
        """Flush until upstream has another size, and go on with what a kill then would leave."""
        size = path.stat().st_size

        class KilledError(Exception):
            pass

        def look() -> None:
            if path.stat().st_size != size:
                store.copy_files()
                content = path.read_bytes()
                times = path.stat()
                store.must_be_sound = False
                self.left = content, times
                raise KilledError

        with pytest.raises(KilledError):
            store.engine.flush.run(FlushOrder(), look)
        store.close()
        path.write_bytes(self.left[0])
        os.utime(path, ns=(self.left[1].st_atime_ns, self.left[1].st_mtime_ns))
        store.adopt_copy()
        store.must_be_sound = True

    @pytest.mark.parametrize("size", [2 * BLOCK + 9, 30 * BLOCK + 1])
    def test_store_opens_and_the_flush_can_be_repeated(
        self, served: EngineStore, size: int
    ) -> None:
        served.resize("a", size)
        served.write_blocks("a", 1, "x")
        shown = served.read("a")
        self.flush_until_resized(served, served.upstream_dir / "a")
        assert fsck.check(served.data_dir, None, served.upstream_dir).is_clean
        served.open()
        assert served.read("a") == shown
        served.engine.flush.run(FlushOrder())
        assert served.engine.status() == "clean"
        assert upstream_of(served) == shown

    def test_another_size_is_refused(self, served: EngineStore) -> None:
        served.resize("a", 30 * BLOCK)
        path = served.upstream_dir / "a"
        self.flush_until_resized(served, path)
        os.truncate(path, 29 * BLOCK)
        with pytest.raises(UpstreamChangedError, match="bytes and has"):
            served.open()


def test_growth_that_finds_no_space_leaves_no_checksum_behind(new_store: NewStore) -> None:
    store = new_store(checksum_bits=8, max_cow_blocks=0)
    store.add("a", "abcd")
    store.open()
    with pytest.raises(NoSpaceError):
        store.write("a", 6 * BLOCK + 10, b"x")
    store.close()  # which checks it
