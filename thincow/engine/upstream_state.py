"""What a flush makes of upstream: which of its blocks may be referred to, and what to record.

Invariants:
- no new reference is made to a block that is reserved (a batch of a flush is going to overwrite
  it) or marked (a flush wrote it, or tried to, and no sync proved the outcome);
- marks are durable before the first write they stand for, and go only with the commit that knows
  the outcome.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.free_runs import Run
from thincow.store.devices_table import DeviceRow


@dataclass(frozen=True, slots=True)
class FrozenUpstream:
    """Changes of an epoch. `marks` is None when they did not change."""

    marks: list[Run] | None
    rows: dict[int, DeviceRow]
    fingerprints: dict[int, int]
    drops_hashes: bool
    forgotten: list[tuple[int, int]]


class UpstreamState:
    """Marks and reservations by block address, and facts that wait for a commit."""

    def __init__(self, marks: Iterable[Run]) -> None:
        """Start with the marks in the store."""
        self._marks = BlockRanges.of(marks)
        self._reserved = BlockRanges.of(())
        self._marks_changed = False
        self._rows: dict[int, DeviceRow] = {}
        self._fingerprints: dict[int, int] = {}
        self._drops_hashes = False
        self._forgotten: list[tuple[int, int]] = []

    @property
    def is_dirty(self) -> bool:
        """Whether anything waits for a commit."""
        return self._marks_changed or bool(self._rows) or self._drops_hashes

    def referable(self, address: int, limit: int) -> int:
        """Return how many upstream blocks from `address` on, at most `limit`, may be used."""
        limit = self._marks.absent_run(address, limit)
        return self._reserved.absent_run(address, limit)

    @property
    def marks(self) -> BlockRanges:
        """What is marked now."""
        return self._marks

    def is_marked(self, address: int, length: int) -> bool:
        """Tell whether any of a range of upstream is marked."""
        return self._marks.absent_run(address, length) < length

    def reserve(self, runs: Iterable[Run]) -> None:
        """Let nobody make references to blocks."""
        self._reserved = self._reserved.plus(BlockRanges.of(runs))

    def release(self, runs: Iterable[Run]) -> None:
        """Take back `reserve`."""
        self._reserved = self._reserved.minus(BlockRanges.of(runs))

    def mark(self, runs: Iterable[Run], *, drop_hashes: bool) -> None:
        """Mark blocks as about to be written; `drop_hashes` forgets entries of dirty blocks."""
        self._marks = self._marks.plus(BlockRanges.of(runs))
        self._marks_changed = True
        self._drops_hashes |= drop_hashes

    def written(self, runs: Iterable[Run], row: DeviceRow, fingerprints: dict[int, int]) -> None:
        """Note that blocks of a device were written and synced; `row` is what it is like now."""
        self._marks = self._marks.minus(BlockRanges.of(runs))
        self._marks_changed = True
        self._rows[row.id] = row
        self._fingerprints |= fingerprints

    def unmark(self, first_block: int, end_block: int) -> None:
        """Note that blocks are not there any more: nothing that was written to them counts."""
        length = end_block - first_block
        if length > 0 and self.is_marked(first_block, length):
            self._marks = self._marks.minus(BlockRanges.of([(first_block, length)]))
            self._marks_changed = True

    def forget(self, first_block: int, end_block: int) -> None:
        """Let the store forget hash entries and fingerprints of a range of upstream."""
        self._forgotten.append((first_block, end_block))

    def update_row(self, row: DeviceRow) -> None:
        """Note what a device is like now."""
        self._rows[row.id] = row

    def freeze(self) -> FrozenUpstream:
        """End the epoch and return its changes."""
        frozen = FrozenUpstream(
            self._marks.runs() if self._marks_changed else None,
            self._rows,
            self._fingerprints,
            self._drops_hashes,
            self._forgotten,
        )
        self._marks_changed = self._drops_hashes = False
        self._forgotten = []
        self._rows, self._fingerprints = {}, {}
        return frozen

    def merge_back(self, frozen: FrozenUpstream) -> None:
        """Take back an epoch whose commit failed."""
        self._marks_changed |= frozen.marks is not None
        self._drops_hashes |= frozen.drops_hashes
        self._forgotten = frozen.forgotten + self._forgotten
        self._rows = frozen.rows | self._rows
        self._fingerprints = frozen.fingerprints | self._fingerprints


def row_after_write(row: DeviceRow, mtime_ns: int | None) -> DeviceRow:
    """Return the row of a device with a new modification time (None: it has none)."""
    return row if mtime_ns is None else replace(row, mtime_ns=mtime_ns)
