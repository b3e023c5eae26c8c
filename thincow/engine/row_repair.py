"""Makes rows right: keeps what can be right of them, and says which virtual blocks lose by it.

Pure: columns in, columns out. What a row must be is said by the checks (`map_check`,
`hint_check`); a row that passed them comes out as it went in.
"""

from typing import Final

import numpy as np

from thincow.block_types import Kind
from thincow.engine.count_check import StepFunction
from thincow.engine.map_check import BoolColumn, Bounds
from thincow.errors import CorruptStoreError
from thincow.store.checksums_table import CHUNK_BLOCKS, NO_SUM, decode
from thincow.store.columns import (
    ChecksumRow,
    CowColumns,
    ExtentColumns,
    FingerprintColumns,
    HashColumns,
    IntColumn,
)

_MAX_PIECES: Final = 1 << 24


class Ranges:
    """Runs of block addresses, collected in any order."""

    def __init__(self) -> None:
        self._first = [np.empty(0, np.int64)]
        self._length = [np.empty(0, np.int64)]

    def add(self, first: IntColumn, length: IntColumn) -> None:
        """Add runs; those of no length do not count."""
        some = length > 0
        self._first.append(first[some])
        self._length.append(length[some])

    def merged(self) -> tuple[IntColumn, IntColumn]:
        """Return first block and end of the runs, ascending, without overlaps or neighbours."""
        first = np.concatenate(self._first)
        end = first + np.concatenate(self._length)
        order = np.argsort(first, kind="stable")
        first, end = first[order], np.maximum.accumulate(end[order])
        begins = np.ones(len(first), np.bool_)
        begins[1:] = first[1:] > end[:-1]
        starts = np.flatnonzero(begins)
        last = np.append(starts[1:], len(first)) - 1
        return first[starts], end[last] if len(first) else end


class MapRepair:
    """Repairs extents, in ascending order of their first block, and counts what they refer to.

    Attributes:
        lost: virtual blocks whose content nothing refers to any more.
        references: of the COW blocks.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._end = 0
        self.lost = Ranges()
        self.references = StepFunction()

    def extents(self, rows: ExtentColumns) -> ExtentColumns:
        """Return what can be kept of some rows."""
        bounds = self._bounds
        first, kind, target = rows.first_block, rows.kind, rows.target
        length = np.clip(rows.length, 0, bounds.room_on_device(first))
        room = np.zeros_like(length)
        upstream, cow, zero = (kind == k for k in (Kind.UPSTREAM, Kind.COW, Kind.ZERO))
        room[upstream] = bounds.room_upstream(target[upstream])
        room[cow] = np.where(target[cow] >= 0, bounds.cow_end - target[cow], 0)
        room[zero & (target == 0)] = np.iinfo(np.int64).max
        kept = np.clip(room, 0, length)
        self.lost.add(first + kept, length - kept)
        kept[~self._without_overlap(first, length, kept)] = 0
        kept[upstream & (target == first)] = 0
        some = kept > 0
        return self._split(ExtentColumns(first[some], kept[some], kind[some], target[some]))

    def counts(self) -> CowColumns:
        """Return the counts of what the extents refer to."""
        at, by = self.references.changes()
        refs = np.cumsum(by)[:-1] if len(at) else by
        some = refs > 0
        rows = self._cut(at[:-1][some], np.diff(at)[some])
        return CowColumns(rows[0], rows[1], refs[some][rows[2]])

    def _without_overlap(self, first: IntColumn, length: IntColumn, kept: IntColumn) -> BoolColumn:
        """Tell which rows begin after the ones before; the others are noted as lost."""
        good = np.ones(len(first), np.bool_)
        end = self._end
        pairs = zip(first.tolist(), (first + kept).tolist(), strict=True)
        for row, (start, stop) in enumerate(pairs):
            if stop == start:
                continue
            if start < end:
                good[row] = False
            else:
                end = stop
        self._end = end
        self.lost.add(first[~good], length[~good])
        return good

    def _split(self, rows: ExtentColumns) -> ExtentColumns:
        first, length, source = self._cut(rows.first_block, rows.length)
        kind = rows.kind[source]
        moved = np.where(kind == Kind.ZERO, 0, first - rows.first_block[source])
        target = rows.target[source] + moved
        cow = kind == Kind.COW
        self.references.add(target[cow], length[cow], np.ones(np.count_nonzero(cow), np.int64))
        return ExtentColumns(first, length, kind, target)

    def _cut(self, first: IntColumn, length: IntColumn) -> tuple[IntColumn, IntColumn, IntColumn]:
        """Cut runs at the borders of windows; return pieces and which run each is of."""
        window = self._bounds.window_blocks
        begin = first // window
        pieces = (first + length - 1) // window - begin + 1
        if int(pieces.sum()) > _MAX_PIECES:
            raise CorruptStoreError("there are extents or counts of an impossible length")
        source = np.repeat(np.arange(len(first)), pieces)
        index = np.arange(len(source)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        low = np.maximum(first[source], (begin[source] + index) * window)
        high = np.minimum((first + length)[source], (begin[source] + index + 1) * window)
        return low, high - low, source


def repair_hashes(rows: HashColumns, bounds: Bounds, wrong: IntColumn) -> HashColumns:
    """Return the entries that can be right, without those whose hash is one of `wrong`."""
    one = np.ones_like(rows.target)
    good = (rows.kind == Kind.UPSTREAM) & bounds.on_upstream(rows.target, one)
    good |= (rows.kind == Kind.COW) & bounds.in_cowdata(rows.target, one)
    good |= (rows.kind == Kind.ZERO) & (rows.target == 0)
    good &= ~np.isin(rows.hash, wrong)
    return HashColumns(*(column[good] for column in rows))


def repair_fingerprints(rows: FingerprintColumns, bounds: Bounds) -> FingerprintColumns:
    """Return the fingerprints of blocks of known devices."""
    good = bounds.on_upstream(rows.block, np.ones_like(rows.block))
    return FingerprintColumns(*(column[good] for column in rows))


class SumRepair:
    """Repairs rows of checksums, in ascending order.

    Args:
        bounds: what addresses may be.
        bits: the width of sums that the store keeps.
        first: starts of the virtual blocks whose sums hold no longer, ascending.
        end: where each of these runs ends.
    """

    def __init__(self, bounds: Bounds, bits: int, first: IntColumn, end: IntColumn) -> None:
        self._bounds = bounds
        self._bits = bits
        self._first = first
        self._end = end
        self._covered = 0

    def row(self, row: ChecksumRow) -> ChecksumRow | None:
        """Return what can be kept of one row; None for nothing."""
        first, length = row.first_block, row.length
        one = np.ones(1, np.int64)
        if (
            row.bits != self._bits
            or self._bits == 0
            or not 1 <= length <= CHUNK_BLOCKS
            or len(row.present) != -(-length // 8)
            or len(row.sums) * 8 != length * row.bits
            or first < self._covered
            or not self._bounds.on_device(one * first, one)[0]
            or self._bounds.crosses_window(one * first, one * length)[0]
        ):
            return None
        self._covered = first + length
        low = int(np.searchsorted(self._end, first, side="right"))
        high = int(np.searchsorted(self._first, first + length))
        if low >= high:
            return row
        present = decode(length, row.bits, row.present, row.sums) != NO_SUM
        runs = zip(self._first[low:high].tolist(), self._end[low:high].tolist(), strict=True)
        for start, end in runs:
            present[max(0, start - first) : end - first] = False
        return row._replace(present=np.packbits(present, bitorder="little").tobytes())
