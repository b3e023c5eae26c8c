"""What a store changed: the ranges in which a device is not what it is upstream, or was in a copy.

Compares maps first, and then the contents of the blocks that have different references: a block
that was written with what it held before is not listed. Of what cannot be read nothing is known, so
it counts as changed. Memory does not depend on how much has changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np

from thincow.block_types import COW_BASE, DEVICE_SHIFT, MAX_DEVICE_BLOCKS, ZERO
from thincow.engine.buffers import new_buffer
from thincow.engine.flush_source import Source
from thincow.engine.map_runs import RunStream, Segments, fill_with_zeros, walk
from thincow.store.columns import ExtentColumns, IntColumn
from thincow.store.devices_table import DeviceRow
from thincow.store.snapshot import Snapshot

_PIECE_BYTES: Final = 4 << 20


class ChangeKind(StrEnum):
    """What a changed range holds now; the value is the text that users see."""

    NEW = "new"
    ZEROED = "zeroed"
    MOVED = "moved"
    ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Change:
    """A changed range of a device, in bytes; where its content is, for moved ones."""

    offset: int
    length: int
    kind: ChangeKind
    source_device: int | None = None
    source_offset: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """One state of a store: its map, and where contents are (None: they are not compared)."""

    snapshot: Snapshot
    source: Source | None


_Run = tuple[int, int, int]
"""First block, length, reference of the first."""


def size_before(device: DeviceRow, before: State | None) -> int:
    """Return the size of a device in what it is compared with, in bytes."""
    if before is None:
        return device.size_bytes
    return next((r.seen_bytes for r in before.snapshot.devices() if r.id == device.id), 0)


def find_changes(
    device: DeviceRow, block_size: int, after: State, before: State | None = None
) -> Iterator[Change]:
    """Yield the changed ranges of a device, ascending; neighbours of one kind are joined.

    What lies behind the end of upstream counts as zeros there.

    Args:
        device: as the store knows it.
        block_size: bytes in a block.
        after: what to look at.
        before: what to compare it with; None is upstream.

    Raises:
        CorruptStoreError: when a map is damaged.
    """
    first = device.id << DEVICE_SHIFT
    end = first + device.seen_blocks(block_size)
    streams = [
        None if state is None else RunStream(_extents(state.snapshot, device.id, block_size, end))
        for state in (before, after)
    ]
    assert streams[1] is not None
    comparison = _Comparison(before or after, after, block_size)
    runs = (run for part in walk(streams[0], streams[1]) for run in comparison.changed(part))
    for start, length, reference in _joined(runs):
        offset = (start - first) * block_size
        size = min(length * block_size, device.seen_bytes - offset)
        if _kind(start, reference) is ChangeKind.MOVED:
            source = (reference & (MAX_DEVICE_BLOCKS - 1)) * block_size
            yield Change(offset, size, ChangeKind.MOVED, reference >> DEVICE_SHIFT, source)
        else:
            yield Change(offset, size, _kind(start, reference))


def _extents(
    snapshot: Snapshot, device_id: int, block_size: int, end: int
) -> Iterator[ExtentColumns]:
    """Return the extents of a device before `end`, and others for what was cut of upstream."""
    first = device_id << DEVICE_SHIFT
    # A device that was longer than it is now may have an extent across the end.
    extents = (
        chunk._replace(length=np.minimum(chunk.length, end - chunk.first_block))
        for chunk in snapshot.extents(first, end)
    )
    for row in snapshot.devices():
        if row.id == device_id:
            own_end = first + row.own_blocks(block_size)
            hidden_end = min(end, first + row.upstream_blocks(block_size))
            return fill_with_zeros(extents, own_end, hidden_end)
    return extents


class _Comparison:
    """Finds the blocks that differ among those whose references may."""

    def __init__(self, before: State, after: State, block_size: int) -> None:
        self._before, self._after = before.source, after.source
        self._same_cowdata = before is after
        self._block_size = block_size
        self._piece = max(1, _PIECE_BYTES // block_size)
        self._buffer = new_buffer(self._piece * block_size)

    def changed(self, part: Segments) -> Iterator[_Run]:
        """Yield runs of changed blocks with their present references."""
        differ = part.before != part.after
        if not self._same_cowdata:
            # A COW block may have been freed and used again for something else.
            differ |= part.after >= COW_BASE
        columns = (column[differ].tolist() for column in part)
        for start, length, before, after in zip(*columns, strict=True):
            if self._before is None or self._after is None:
                yield start, length, after
            else:
                yield from self._compare(start, length, before, after)

    def _compare(self, start: int, length: int, before: int, after: int) -> Iterator[_Run]:
        for at in range(0, length, self._piece):
            count = min(self._piece, length - at)
            old, new = _moved_on(before, at), _moved_on(after, at)
            for begin, size in self._unequal(old, new, count):
                yield start + at + begin, size, _moved_on(new, begin)

    def _unequal(self, before: int, after: int, count: int) -> list[tuple[int, int]]:
        """Return runs, by index, of blocks whose contents differ or cannot be read."""
        assert self._before is not None
        assert self._after is not None
        old = self._read(self._before, before, count)
        new = self._read(self._after, after, count)
        if old is None or new is None:
            if count == 1:
                return [(0, 1)]
            half = count // 2
            low = self._unequal(before, after, half)
            high = self._unequal(_moved_on(before, half), _moved_on(after, half), count - half)
            return low + [(half + begin, size) for begin, size in high]
        if old == new:
            return []
        if count == 1:
            return [(0, 1)]
        shape = (count, self._block_size)
        rows = [np.frombuffer(data, np.uint8).reshape(shape) for data in (old, new)]
        return _runs_of(np.flatnonzero((rows[0] != rows[1]).any(axis=1)))

    def _read(self, source: Source, reference: int, count: int) -> bytes | None:
        buffer = self._buffer[: count * self._block_size]
        try:
            source.read(reference, count, buffer)
        except (OSError, KeyError):
            return None
        return bytes(buffer)


def _runs_of(numbers: IntColumn) -> list[tuple[int, int]]:
    heads = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    sizes = np.diff(heads, append=len(numbers))
    return list(zip(numbers[heads].tolist(), sizes.tolist(), strict=True))


def _joined(runs: Iterator[_Run]) -> Iterator[_Run]:
    """Join neighbours of one kind; moved ones only when their sources are neighbours, too."""
    last: _Run | None = None
    for run in runs:
        start, length, reference = run
        if last is not None and last[0] + last[1] == start:
            kind = _kind(last[0], last[2])
            follows = kind is not ChangeKind.MOVED or last[2] + last[1] == reference
            if kind is _kind(start, reference) and follows:
                last = (last[0], last[1] + length, last[2])
                continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _kind(start: int, reference: int) -> ChangeKind:
    if reference == ZERO:
        return ChangeKind.ZEROED
    if reference >= COW_BASE:
        return ChangeKind.NEW
    return ChangeKind.ORIGINAL if reference == start else ChangeKind.MOVED


def _moved_on(reference: int, blocks: int) -> int:
    return reference if reference == ZERO else reference + blocks
