"""Checks the map and the reference counts.

Owns what rows of `extents` and `cow` may say: each by itself, beside its neighbours, and the two
tables against each other. Works on whole columns; a row that fails one check is left out of the
later ones that it could only confuse.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from thincow.block_types import DEVICE_SHIFT, MAX_DEVICE_BLOCKS, ZERO, Kind
from thincow.engine.count_check import StepFunction, compare
from thincow.engine.findings import Code, Findings, describer
from thincow.store.columns import CowColumns, ExtentColumns, IntColumn
from thincow.store.devices_table import DeviceRow
from thincow.store.snapshot import Snapshot

MAX_COW_BLOCKS: Final = 1 << 61
"""More than any file can hold; sums of numbers below it fit in 63 bits."""

BoolColumn = NDArray[np.bool_]


class Bounds:
    """What addresses may be in one store.

    Args:
        devices: rows with sane values.
        block_size: in bytes.
        window_blocks: blocks in a window.
        cowdata_bytes: size of `cowdata`, None when it is not known.
    """

    def __init__(
        self,
        devices: list[DeviceRow],
        block_size: int,
        window_blocks: int,
        cowdata_bytes: int | None,
    ) -> None:
        self.block_size = block_size
        self.window_blocks = window_blocks
        self.cowdata_bytes = cowdata_bytes
        self._names = {device.id: device.name for device in devices}
        # Device 0 has no blocks; it keeps the arrays from being empty.
        rows = sorted(devices, key=lambda row: row.id)
        self._ids = _column(row.id for row in rows)
        self._seen = _column(row.seen_blocks(block_size) for row in rows)
        self._upstream = _column(row.upstream_blocks(block_size) for row in rows)
        self._own = _column(row.own_blocks(block_size) for row in rows)

    @property
    def cow_end(self) -> int:
        """Return the number of whole blocks in `cowdata`."""
        if self.cowdata_bytes is None:
            return MAX_COW_BLOCKS
        return self.cowdata_bytes // self.block_size

    def on_device(self, first: IntColumn, length: IntColumn) -> BoolColumn:
        """Tell which runs of block addresses lie inside a known device as it is shown."""
        inside: BoolColumn = (length > 0) & (length <= self.room_on_device(first))
        return inside

    def on_upstream(self, first: IntColumn, length: IntColumn) -> BoolColumn:
        """Tell which runs of block addresses lie inside what is upstream."""
        inside: BoolColumn = (length > 0) & (length <= self.room_upstream(first))
        return inside

    def room_on_device(self, first: IntColumn) -> IntColumn:
        """Return how many blocks there are from each address to the end that is shown."""
        return self._room(first, self._seen)

    def room_upstream(self, first: IntColumn) -> IntColumn:
        """Return how many blocks there are from each address to the end of upstream."""
        return self._room(first, self._upstream)

    def hidden(self) -> tuple[IntColumn, IntColumn]:
        """Return runs of upstream blocks that the blocks in their place do not show."""
        length = self._upstream - self._own
        return ((self._ids << DEVICE_SHIFT) + self._own)[length > 0], length[length > 0]

    def contents_of(self, first_block: int, references: IntColumn) -> IntColumn:
        """Return references of blocks from an address on with ZERO where nothing is shown."""
        own = np.arange(first_block, first_block + len(references))
        hidden = (references == own) & (self._room(own, self._own) == 0)
        return np.where(hidden, ZERO, references)

    def _room(self, first: IntColumn, blocks: IntColumn) -> IntColumn:
        ids = first >> DEVICE_SHIFT
        place = np.clip(np.searchsorted(self._ids, ids), 0, len(self._ids) - 1)
        room = blocks[place] - (first & (MAX_DEVICE_BLOCKS - 1))
        return np.where((self._ids[place] == ids) & (room > 0), room, 0)

    def in_cowdata(self, first: IntColumn, length: IntColumn) -> BoolColumn:
        """Tell which runs of COW blocks lie inside `cowdata`."""
        end = self.cow_end
        return (first >= 0) & (first < end) & (length > 0) & (length <= end - first)

    def crosses_window(self, first: IntColumn, length: IntColumn) -> BoolColumn:
        """Tell which runs lie in more than one window; first and length must be in range."""
        last = first + length - 1
        crosses: BoolColumn = first // self.window_blocks != last // self.window_blocks
        return crosses

    def place(self, address: int) -> str:
        """Return a block address in words."""
        name = self._names.get(address >> DEVICE_SHIFT)
        if name is None:
            return f"block address {address}"
        return f"device {name}, byte {(address & (MAX_DEVICE_BLOCKS - 1)) * self.block_size}"


def _column(values: Iterable[int]) -> IntColumn:
    return np.array([0, *values], np.int64)


class OverlapCheck:
    """Tells which runs of an ascending series, seen chunk by chunk, begin inside an earlier one."""

    def __init__(self) -> None:
        self._end = np.iinfo(np.int64).min

    def overlaps(self, first: IntColumn, length: IntColumn) -> BoolColumn:
        """Return one answer a run; first + length must fit in 63 bits."""
        ends = np.maximum.accumulate(np.concatenate(([self._end], first + length)))
        self._end = ends[-1]
        return first < ends[:-1]


def check_extents(snapshot: Snapshot, bounds: Bounds, findings: Findings) -> StepFunction:
    """Check the table `extents`; return the references it makes to COW blocks."""
    references = StepFunction()
    findings.count("extents", 0)
    overlap = OverlapCheck()
    for chunk in snapshot.extents():
        findings.count("extents", len(chunk.first_block))
        in_range = bounds.on_device(chunk.first_block, chunk.length)
        findings.add_where(
            Code.EXTENT_RANGE,
            ~in_range,
            describer(chunk, bounds.place, "{length} blocks do not lie on a known device"),
        )
        rows = ExtentColumns(*(column[in_range] for column in chunk))
        findings.add_where(
            Code.EXTENT_OVERLAP,
            overlap.overlaps(rows.first_block, rows.length),
            describer(rows, bounds.place, "begins inside an extent before it"),
        )
        findings.add_where(
            Code.EXTENT_WINDOW,
            bounds.crosses_window(rows.first_block, rows.length),
            describer(rows, bounds.place, "{length} blocks cross the border of a window"),
        )
        _check_targets(rows, bounds, findings)
        countable = (rows.kind == Kind.COW) & _is_cow_block(rows.target)
        first = rows.target[countable]
        references.add(first, rows.length[countable], np.ones_like(first))
    return references


def check_counts(snapshot: Snapshot, bounds: Bounds, findings: Findings) -> StepFunction:
    """Check the table `cow` and the size of `cowdata`; return the counts it stores."""
    counts = StepFunction()
    overlap = OverlapCheck()
    end = 0
    findings.count("cow_rows", 0)
    findings.count("cow_blocks", 0)
    for chunk in snapshot.cow():
        findings.count("cow_rows", len(chunk.first_block))
        in_range = _is_cow_block(chunk.first_block) & _is_cow_block(chunk.length - 1)
        in_range &= (chunk.refs > 0) & (chunk.refs < MAX_COW_BLOCKS)
        findings.add_where(
            Code.COW_RANGE,
            ~in_range,
            describer(chunk, cow_place, "length {length} or count {refs} is out of range"),
        )
        rows = CowColumns(*(column[in_range] for column in chunk))
        findings.add_where(
            Code.COW_OVERLAP,
            overlap.overlaps(rows.first_block, rows.length),
            describer(rows, cow_place, "counts begin inside a row before it"),
        )
        findings.add_where(
            Code.COW_WINDOW,
            bounds.crosses_window(rows.first_block, rows.length),
            describer(rows, cow_place, "counts of {length} blocks cross the border of a window"),
        )
        counts.add(*rows)
        end = max(end, int((rows.first_block + rows.length).max(initial=0)))
        findings.count("cow_blocks", int(rows.length.sum()))
    needed = end * bounds.block_size
    if bounds.cowdata_bytes is not None and needed > bounds.cowdata_bytes:
        message = f"has {bounds.cowdata_bytes} bytes; the last counted block ends at byte {needed}"
        findings.add(Code.COWDATA_SHORT, "cowdata", message)
    return counts


def compare_counts(stored: StepFunction, found: StepFunction, findings: Findings) -> None:
    """Check that the stored counts are those found in the map (invariant 6)."""
    wrong = compare(stored, found)
    findings.add_where(
        Code.COUNT_WRONG,
        np.ones(len(wrong.first_block), np.bool_),
        describer(wrong, cow_place, "{length} blocks have {found} references, stored is {stored}"),
    )


def _check_targets(rows: ExtentColumns, bounds: Bounds, findings: Findings) -> None:
    first, length, kind, target = rows
    upstream, cow, zero = (kind == k for k in (Kind.UPSTREAM, Kind.COW, Kind.ZERO))
    findings.add_where(
        Code.EXTENT_KIND,
        ~(upstream | cow | zero),
        describer(rows, bounds.place, "unknown kind {kind}"),
    )
    wrong = upstream & ~bounds.on_upstream(target, length)
    wrong |= cow & ~bounds.in_cowdata(target, length)
    wrong |= zero & (target != 0)
    findings.add_where(
        Code.EXTENT_TARGET,
        wrong,
        describer(rows, bounds.place, "{length} blocks of kind {kind} have no target {target}"),
    )
    findings.add_where(
        Code.EXTENT_IDENTITY,
        upstream & (target == first),
        describer(rows, bounds.place, "{length} blocks say what is so without an extent"),
    )


def _is_cow_block(number: IntColumn) -> BoolColumn:
    return (number >= 0) & (number < MAX_COW_BLOCKS)


def cow_place(number: int) -> str:
    """Return the number of a COW block in words."""
    return f"COW block {number}"
