"""What a full flush would do, computed from one commit and changing nothing.

Memory and time are in proportion to the extents (and, for cycles, to at most some million moved
blocks), not to the size of the devices: a million scattered blocks take seconds. Amounts are in
bytes of whole blocks.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from thincow.block_types import COW_BASE, DEVICE_SHIFT, ZERO, Kind
from thincow.engine.block_ranges import BlockRanges
from thincow.engine.device import Device
from thincow.engine.flush_compare import count_held_upstream
from thincow.engine.flush_cycles import Cycles, find_cycles
from thincow.engine.flush_source import Source
from thincow.engine.flush_users import shown_by_devices
from thincow.engine.runs import BoolArray, Int64Array
from thincow.errors import CorruptStoreError
from thincow.store.snapshot import Snapshot

_MOST_RANGES: Final = 10


@dataclass(frozen=True, slots=True)
class RangePlan:
    """A range of a device that changes, in bytes."""

    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """What is to be done on one device.

    Attributes:
        name: of the device.
        upstream_bytes: size of upstream.
        size_bytes: the size that it gets.
        write_bytes: to be written.
        equal_bytes: not to be written, since upstream holds it already (only what is in memory is
            compared).
        shown_by: names of other devices, and how much of what is to be overwritten or skipped here
            they show now. They have to be flushed before, or at the same time.
        ranges: the biggest ranges that change, the biggest first.
    """

    name: str
    upstream_bytes: int
    size_bytes: int
    write_bytes: int
    equal_bytes: int
    shown_by: dict[str, int]
    ranges: tuple[RangePlan, ...]


@dataclass(frozen=True, slots=True)
class FlushPlan:
    """What a full flush of all devices would do.

    Attributes:
        block_size: in bytes.
        devices: all that are served.
        cycles: groups of blocks of which each has its content at the place of another; None when
            too much is moved to count them.
        cycle_bytes: the blocks in them.
        space_bytes: how much the COW store must be able to grow for them, at least.
    """

    block_size: int
    devices: tuple[DevicePlan, ...]
    cycles: int | None
    cycle_bytes: int | None
    space_bytes: int

    @property
    def write_bytes(self) -> int:
        """To be written on all devices."""
        return sum(device.write_bytes for device in self.devices)

    @property
    def equal_bytes(self) -> int:
        """To be skipped on all devices."""
        return sum(device.equal_bytes for device in self.devices)

    def of_devices(self, names: Iterable[str]) -> "FlushPlan":
        """Return the part that is about some devices; cycles are those of all."""
        chosen = set(names)
        devices = tuple(device for device in self.devices if device.name in chosen)
        return replace(self, devices=devices)

    def biggest_ranges(self, most: int) -> list[tuple[str, RangePlan]]:
        """Return the biggest ranges of all devices with their devices' names."""
        ranges = [(device.name, part) for device in self.devices for part in device.ranges]
        return sorted(ranges, key=lambda pair: -pair[1].length_bytes)[:most]

    def as_json(self) -> str:
        """Return it as a JSON object."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "FlushPlan":
        """Return what `as_json` was called on."""
        fields: dict[str, Any] = json.loads(text)
        for device in fields["devices"]:
            device["ranges"] = tuple(RangePlan(**part) for part in device["ranges"])
        fields["devices"] = tuple(DevicePlan(**device) for device in fields["devices"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class _Extents:
    """Columns of extents, by ascending first block."""

    firsts: Int64Array
    lengths: Int64Array
    references: Int64Array

    def __getitem__(self, chosen: slice | BoolArray) -> "_Extents":
        return _Extents(self.firsts[chosen], self.lengths[chosen], self.references[chosen])

    @property
    def is_moved(self) -> BoolArray:
        """Which have their contents upstream."""
        result: BoolArray = (self.references >= 0) & (self.references < COW_BASE)
        return result

    def of(self, device: Device) -> "_Extents":
        """Return those of one device."""
        low, high = np.searchsorted(self.firsts, (device.first_block, device.end_block))
        return self[low:high]


def plan_flush(snapshot: Snapshot, devices: Sequence[Device], source: Source) -> FlushPlan:
    """Plan a full flush of devices.

    Args:
        snapshot: the commit to plan for; read from end to end.
        devices: all that are served.
        source: where contents are read from. They may change meanwhile: then what is equal is an
            estimate.

    Raises:
        CorruptStoreError: when the map is damaged.
    """
    extents = _load(snapshot)
    unproved = _unproved(snapshot)
    names = {device.id: device.name for device in devices}
    served = np.isin(extents.firsts >> DEVICE_SHIFT, [device.id for device in devices])
    found = _find_cycles(extents[served & extents.is_moved])
    return FlushPlan(
        source.block_size,
        tuple(_plan_device(device, extents, names, source, unproved) for device in devices),
        None if found is None else found.number,
        None if found is None else found.blocks * source.block_size,
        0 if found == Cycles(0, 0) else source.block_size,
    )


def _plan_device(
    device: Device,
    extents: _Extents,
    names: dict[int, str],
    source: Source,
    unproved: BlockRanges,
) -> DevicePlan:
    own = extents.of(device)
    moved = extents[extents.is_moved & (extents.firsts >> DEVICE_SHIFT != device.id)]
    dirty = BlockRanges.union(own.firsts, own.lengths)
    users = shown_by_devices(dirty, moved.firsts, moved.lengths, moved.references)
    equal = count_held_upstream(source, own.firsts, own.lengths, own.references, unproved)
    return DevicePlan(
        device.name,
        device.row.size_bytes,
        device.size_bytes,
        (int(own.lengths.sum()) - equal) * source.block_size,
        equal * source.block_size,
        {names[user]: n * source.block_size for user, n in users.items() if user in names},
        _biggest(dirty, device, source.block_size),
    )


def _find_cycles(moved: _Extents) -> Cycles | None:
    return find_cycles(moved.firsts, moved.lengths, moved.references)


def _biggest(dirty: BlockRanges, device: Device, block_size: int) -> tuple[RangePlan, ...]:
    biggest = []
    for at in np.argsort(-dirty.lengths, kind="stable")[:_MOST_RANGES].tolist():
        offset = (int(dirty.starts[at]) - device.first_block) * block_size
        size = min(int(dirty.lengths[at]) * block_size, device.size_bytes - offset)
        biggest.append(RangePlan(offset, size))
    return tuple(biggest)


def _load(snapshot: Snapshot) -> _Extents:
    """Read the map."""
    chunks = list(snapshot.extents())
    if not chunks:
        empty = np.empty(0, np.int64)
        return _Extents(empty, empty, empty)
    firsts, lengths, kinds, targets = (
        np.concatenate([chunk[column] for chunk in chunks]) for column in range(4)
    )
    is_sound = (lengths > 0) & (firsts[:] > 0) & (targets >= 0) & (targets < COW_BASE - lengths)
    is_sound[:-1] &= lengths[:-1] <= firsts[1:] - firsts[:-1]
    is_sound &= (firsts + lengths - 1) >> DEVICE_SHIFT == firsts >> DEVICE_SHIFT
    if not is_sound.all() or not np.isin(kinds, [kind.value for kind in Kind]).all():
        raise CorruptStoreError("the map is damaged: run 'thincow fsck'")
    references = np.where(kinds == Kind.COW, targets + COW_BASE, targets)
    references[kinds == Kind.ZERO] = ZERO
    return _Extents(firsts, lengths, references)


def _unproved(snapshot: Snapshot) -> BlockRanges:
    chunks = list(snapshot.flushing())
    empty = np.empty(0, np.int64)
    return BlockRanges.union(
        np.concatenate([empty, *(chunk.first_block for chunk in chunks)]),
        np.concatenate([empty, *(chunk.length for chunk in chunks)]),
    )
