import errno
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from thincow.block_types import MAX_DEVICE_ID, DeviceId, first_address
from thincow.engine.upstream_check import DeviceState, UpstreamVerdict, check_upstreams
from thincow.errors import ConfigurationError, UpstreamChangedError
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.upstream import Upstream, scan

BLOCK_SIZE = 512
BLOCKS = 40


class Store:
    """An upstream directory, and what a store remembers of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[DeviceRow] = []
        self.fingerprints: dict[int, int] = {}
        self.unreferenced: set[int] = set()
        self.asked: list[int] = []

    def check(self, force: bool = False, disk: Disk | None = None) -> UpstreamVerdict:
        with ExitStack() as stack:
            upstreams = [
                stack.enter_context(closing(Upstream(Disk(), file)))
                for file in scan(self.directory)
            ]
            return check_upstreams(
                self.rows,
                self.fingerprints,
                upstreams,
                BLOCK_SIZE,
                disk or Disk(),
                self.is_referenced,
                force,
            )

    def is_referenced(self, address: int) -> bool:
        self.asked.append(address)
        return address not in self.unreferenced

    def record(self, verdict: UpstreamVerdict) -> None:
        self.rows = [device.row for device in verdict.devices]
        self.fingerprints = {}
        for device in verdict.devices:
            self.fingerprints |= device.fingerprints

    def refusal(self) -> str:
        with pytest.raises(UpstreamChangedError) as error:
            self.check()
        text = str(error.value)
        assert "\n" not in text
        assert "--force" in text
        return text

    def overwrite(self, name: str, block: int, content: bytes = b"changed") -> None:
        """Change the content of a file, but not its modification time."""
        path = self.directory / name
        with path.open("r+b") as file:
            file.seek(block * BLOCK_SIZE)
            file.write(content)
        self.restore_times()

    def restore_times(self) -> None:
        """Let the store believe in the modification times of today."""
        times = {file.name: file.mtime_ns for file in scan(self.directory)}
        self.rows = [replace(row, mtime_ns=times[row.name]) for row in self.rows]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that knows the devices a and b."""
    for name in "ab":
        content = b"".join(f"{name}{n}".encode().ljust(BLOCK_SIZE) for n in range(BLOCKS))
        (tmp_path / name).write_bytes(content)
    known = Store(tmp_path)
    known.record(known.check())
    return known


def states(verdict: UpstreamVerdict) -> dict[str, str]:
    return {device.row.name: str(device.state) for device in verdict.devices}


def test_new_store_numbers_devices_by_name_and_samples_them(store):
    fresh = Store(store.directory)
    verdict = fresh.check()
    assert [(d.row.id, d.row.name, d.state) for d in verdict.devices] == [
        (1, "a", DeviceState.NEW),
        (2, "b", DeviceState.NEW),
    ]
    assert verdict.warnings == ()
    for device in verdict.devices:
        assert not device.is_recorded
        first = first_address(DeviceId(device.row.id))
        assert sorted(device.fingerprints) == list(range(first, first + BLOCKS))


def test_unchanged_upstream_needs_no_record(store):
    verdict = store.check()
    assert states(verdict) == {"a": "same", "b": "same"}
    assert all(device.is_recorded for device in verdict.devices)
    assert store.asked == []


def test_added_device_gets_the_next_id_and_nobody_is_renumbered(store):
    (store.directory / "Aa").write_bytes(b"new")
    verdict = store.check()
    assert [(d.row.id, d.row.name) for d in verdict.devices] == [(1, "a"), (2, "b"), (3, "Aa")]
    assert states(verdict) == {"a": "same", "b": "same", "Aa": "new"}


def test_id_of_a_missing_device_is_not_given_away(store):
    (store.directory / "b").unlink()
    (store.directory / "c").write_bytes(b"new")
    verdict = store.check(force=True)
    assert [(d.row.id, d.row.name) for d in verdict.devices] == [(1, "a"), (2, "b"), (3, "c")]


def test_more_devices_than_ids_are_refused(store):
    store.rows = [replace(store.rows[0], id=MAX_DEVICE_ID)]
    with pytest.raises(ConfigurationError, match="no room for another device: b"):
        store.check()


def test_missing_device_is_refused_and_kept_with_force(store):
    (store.directory / "a").unlink()
    assert "upstream device a is missing" in store.refusal()
    verdict = store.check(force=True)
    assert states(verdict) == {"a": "missing", "b": "same"}
    assert verdict.warnings == ("upstream device a is missing",)
    missing = verdict.devices[0]
    assert missing.row == store.rows[0]
    assert missing.is_recorded
    assert len(missing.fingerprints) == BLOCKS


def test_changed_size_is_refused_and_sampled_anew_with_force(store):
    path = store.directory / "b"
    path.write_bytes(path.read_bytes()[: 10 * BLOCK_SIZE])
    store.restore_times()
    assert "upstream device b had 20480 bytes and has 5120" in store.refusal()
    device = store.check(force=True).devices[1]
    assert (device.state, device.row.size_bytes) == (DeviceState.CHANGED, 5120)
    assert len(device.fingerprints) == 10
    assert not device.is_recorded


def test_changed_kind_is_refused(store):
    store.rows = [replace(row, type="block", inode=None, mtime_ns=None) for row in store.rows]
    assert "device a was a block device and is a regular file" in store.refusal()
    assert states(store.check(force=True)) == {"a": "changed", "b": "changed"}


def test_changed_inode_is_refused(store):
    copy = store.directory / "copy"
    copy.write_bytes((store.directory / "a").read_bytes())
    copy.rename(store.directory / "a")
    assert "device a is another file (inode" in store.refusal()


def test_changed_modification_time_is_refused(store):
    row = store.rows[0]
    assert row.mtime_ns is not None
    for shift, words in ((-1_500_000_000, "1.500 s later"), (2_000_000, "0.002 s earlier")):
        store.rows[0] = replace(row, mtime_ns=row.mtime_ns + shift)
        text = store.refusal()
        assert "device a was written to" in text
        assert words in text
    verdict = store.check(force=True)
    assert verdict.devices[0].row == row
    assert verdict.devices[0].state == DeviceState.CHANGED
    store.record(verdict)
    assert states(store.check()) == {"a": "same", "b": "same"}


def test_changed_content_is_refused_with_the_offset(store):
    store.overwrite("b", 7)
    assert "upstream device b has other contents (at byte 3584)" in store.refusal()
    store.overwrite("b", 39)
    assert "(at byte 3584 and in 1 more samples)" in store.refusal()
    verdict = store.check(force=True)
    assert states(verdict) == {"a": "same", "b": "changed"}
    assert len(verdict.warnings) == 1
    store.record(verdict)
    assert states(store.check()) == {"a": "same", "b": "same"}


def test_content_nobody_refers_to_may_change_and_is_recorded_anew(store):
    changed = first_address(DeviceId(2)) + 7
    store.unreferenced = {changed}
    store.overwrite("b", 7)
    verdict = store.check()
    assert states(verdict) == {"a": "same", "b": "same"}
    assert store.asked == [changed]
    device = verdict.devices[1]
    assert not device.is_recorded
    assert len(device.fingerprints) == BLOCKS
    assert device.fingerprints[changed] != store.fingerprints[changed]
    store.record(verdict)
    store.unreferenced = set()
    assert states(store.check()) == {"a": "same", "b": "same"}


def test_several_changes_are_told_in_one_line(store):
    for name in "cdef":
        (store.directory / name).write_bytes(b"x")
    store.record(store.check())
    for name in "acdef":
        (store.directory / name).unlink()
    text = store.refusal()
    assert text.startswith("upstream device a is missing; upstream device c is missing; ")
    assert "(and 2 more)" in text


def failing_disk() -> Mock:
    """Return a disk whose every read fails."""
    disk = Mock(spec=Disk)
    disk.read.side_effect = OSError(errno.EIO, "Input/output error")
    return disk


def test_unreadable_samples_count_neither_way(store):
    verdict = store.check(disk=failing_disk())
    assert states(verdict) == {"a": "same", "b": "same"}
    assert all(device.is_recorded for device in verdict.devices)


def test_samples_unreadable_at_first_are_added_later(store):
    fresh = Store(store.directory)
    fresh.record(fresh.check(disk=failing_disk()))
    assert fresh.fingerprints == {}
    device = fresh.check().devices[0]
    assert (device.state, device.is_recorded) == (DeviceState.SAME, False)
    assert len(device.fingerprints) == BLOCKS


def test_metadata_changes_are_refused_before_anything_is_read(store):
    (store.directory / "a").unlink()
    disk = Mock(spec=Disk)
    with pytest.raises(UpstreamChangedError):
        store.check(disk=disk)
    disk.read.assert_not_called()


def test_fingerprints_besides_the_samples_are_checked_too(tmp_path):
    big = bytes(BLOCK_SIZE * 5000)
    (tmp_path / "a").write_bytes(big)
    store = Store(tmp_path)
    store.record(store.check())
    sampled = {address - first_address(DeviceId(1)) for address in store.fingerprints}
    other = next(index for index in range(100, 5000) if index not in sampled)
    zero_fingerprint = next(iter(store.fingerprints.values()))
    store.fingerprints[first_address(DeviceId(1)) + other] = zero_fingerprint
    assert store.check().devices[0].is_recorded
    store.overwrite("a", other)
    assert f"(at byte {other * BLOCK_SIZE})" in store.refusal()
