"""Changes as they are found from the map, against a byte-by-byte comparison.

The options are those of the other random tests (see `test_engine_differential`).
"""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.property.test_engine_differential import BLOCK_SIZES, EngineTarget
from tests.support.engines import EngineStore, NewStore
from tests.support.exerciser import Exerciser
from tests.support.random_operations import Mix, make_contents
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine.backup import back_up
from thincow.engine.diff import Change, ChangeKind, State, find_changes
from thincow.engine.header_check import Header
from thincow.engine.store_view import open_offline_view, open_source
from thincow.store.disk import Disk

SEEDS = 16
NAMES = "abc"


@contextmanager
def opened(store: EngineStore, data_dir: Path, *, reads: bool) -> Iterator[tuple[Header, State]]:
    """Look at a store, or at a backup of it."""
    with ExitStack() as stack:
        view = stack.enter_context(open_offline_view(data_dir, None, store.upstream_dir))
        header = view.header()
        source = stack.enter_context(open_source(Disk(), view, header)) if reads else None
        yield header, State(view.snapshot, source)


def blocks_of(changes: list[Change], block_size: int) -> set[int]:
    """Return the numbers of changed blocks; each only once, ranges apart or of different kinds."""
    blocks: set[int] = set()
    end = 0
    for change in changes:
        assert change.offset >= end
        end = change.offset + change.length
        found = range(change.offset // block_size, -(-end // block_size))
        assert not blocks.intersection(found)
        blocks.update(found)
    return blocks


def differing(old: bytes, new: bytes, block_size: int) -> set[int]:
    """Return the numbers of blocks that differ; what was not there is zero."""
    return {
        at // block_size
        for at in range(0, len(new), block_size)
        if old[at : at + block_size].ljust(block_size, b"\0")
        != new[at : at + block_size].ljust(block_size, b"\0")
    }


def check_kinds(
    changes: list[Change], new: bytes, originals: dict[int, bytes], device: int
) -> None:
    """Compare each range with what its kind promises."""
    for change in changes:
        shown = new[change.offset : change.offset + change.length]
        assert len(shown) == change.length
        if change.kind is ChangeKind.ZEROED:
            assert not any(shown)
        elif change.kind is ChangeKind.ORIGINAL:
            original = originals[device][change.offset : change.offset + change.length]
            assert shown == original.ljust(change.length, b"\0")
        elif change.kind is ChangeKind.MOVED:
            assert change.source_device is not None
            assert change.source_offset is not None
            source = originals[change.source_device][change.source_offset :][: change.length]
            assert shown == source.ljust(change.length, b"\0")


@pytest.mark.parametrize("number", range(SEEDS))
def test_diff_is_a_comparison_byte_by_byte(new_store: NewStore, number, operations, first_seed):
    seed = first_seed + number
    choose = random.Random(seed)
    block_size = BLOCK_SIZES[seed % 4]
    store = new_store(disk=ScriptedDisk(), block_size=block_size)
    contents = make_contents(seed, block_size, devices=3, blocks=40)
    for name, content in zip(NAMES, contents, strict=True):
        store.add(name, content)
    target = EngineTarget(store, ScriptedDisk(), choose)
    target.open()
    exerciser = Exerciser(seed, contents, block_size, target, Mix(restart=1))
    exerciser.run(max(1, operations // SEEDS // 8))
    target.sync()
    store.close()
    backup = store.root / "backup"
    before = [bytes(device) for device in exerciser.model.devices]
    with open_offline_view(store.data_dir) as view:
        back_up(view, backup)
    store.open()
    exerciser.run(max(1, operations // SEEDS // 8))
    target.sync()
    store.close()
    after = [bytes(device) for device in exerciser.model.devices]
    with (
        opened(store, store.data_dir, reads=True) as (header, state),
        opened(store, store.data_dir, reads=False) as (_, unread),
        opened(store, backup, reads=True) as (_, base),
    ):
        assert [device.name for device in header.devices] == list(NAMES)
        originals = {d.id: c for d, c in zip(header.devices, contents, strict=True)}
        for index, device in enumerate(header.devices):
            new = after[index]
            changes = list(find_changes(device, block_size, state))
            wanted = differing(contents[index], new, block_size)
            assert blocks_of(changes, block_size) == wanted
            check_kinds(changes, new, originals, device.id)
            mapped = list(find_changes(device, block_size, unread))
            assert blocks_of(mapped, block_size) >= wanted
            check_kinds(mapped, new, originals, device.id)
            since = list(find_changes(device, block_size, state, base))
            assert blocks_of(since, block_size) == differing(before[index], new, block_size)
            check_kinds(since, new, originals, device.id)


def test_diff_ends_where_a_device_ends_that_was_longer(store: EngineStore) -> None:
    store.add("a", bytes(2 * store.block_size))
    store.open()
    store.resize("a", 8 * store.block_size)
    store.write_blocks("a", 1, "bcdefg")
    store.close()
    backup = store.root / "backup"
    with open_offline_view(store.data_dir) as view:
        back_up(view, backup)
    store.open()
    store.resize("a", 3 * store.block_size - 9)
    store.close()
    with (
        opened(store, store.data_dir, reads=True) as (header, state),
        opened(store, backup, reads=True) as (_, base),
    ):
        (device,) = header.devices
        (change,) = find_changes(device, store.block_size, state, base)
        assert (change.offset, change.length) == (2 * store.block_size, store.block_size - 9)
