"""The slow part of a flush: contents to their own places upstream. For any one thread.

Writes are ascending and large; what upstream is seen to hold already is left out, but synced all
the same.
When a write fails, or the sync after them, everything is written again, and the blocks at fault
are found by writing halves synchronously: a buffered error names no offset.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from queue import SimpleQueue
from threading import Thread

import numpy as np

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.buffers import BlockBuffer, new_buffer
from thincow.engine.device import Device
from thincow.engine.entry_columns import Columns
from thincow.engine.flush_compare import held_upstream
from thincow.engine.flush_source import Source
from thincow.engine.hash_filter import signed
from thincow.engine.runs import Int64Array, ReferenceCodec, merge_numbers, split
from thincow.store.upstream_writer import UpstreamWriter

_PIECE_BYTES = 1 << 20
_PIECES_AHEAD = 3
"""So many pieces may be ready while another is written."""
_DIFFERENT_PIECES = 16
"""After so many pieces of which upstream held nothing, only one in as many is compared."""
_CODEC = ReferenceCodec()


def new_buffers(block_size: int) -> list[BlockBuffer]:
    """Return buffers for the pieces of batches of blocks, and one more to compare with."""
    blocks = max(1, _PIECE_BYTES // block_size)
    return [BlockBuffer(block_size, blocks) for _ in range(1 + _PIECES_AHEAD + 2)]


@dataclass(slots=True)
class BatchWrite:
    """Writes blocks of one device, given as ascending addresses and their references."""

    device: Device
    addresses: Int64Array
    references: Int64Array
    source: Source
    writer: UpstreamWriter
    unproved: BlockRanges
    """Blocks that must not be compared with upstream."""
    buffers: list[BlockBuffer]
    """As `new_buffers` makes them; for one batch at a time."""
    bad: dict[int, str] = field(default_factory=dict)
    """Addresses that were not written, and why."""
    equal_blocks: int = 0
    """How many blocks upstream held already."""
    mtime_ns: int | None = None
    _hashes: Int64Array = field(init=False)
    """Signed hash of each block; of those in `bad` that mean nothing."""
    _runs: list[int] = field(init=False)
    """Where runs of references begin, by index."""
    _different: int = 0
    """Pieces since the last one of which upstream held anything."""

    def __post_init__(self) -> None:
        self._hashes = np.zeros(len(self.addresses), np.int64)
        self._runs = split(_CODEC, self.references).tolist()

    def run(self) -> None:
        """Write and sync. What fails is left in `bad`."""
        if not self._write_all():
            self._find_bad_blocks()
        self.mtime_ns = self.writer.mtime_ns()

    def written(self) -> Columns:
        """Return the signed hashes and the addresses of the blocks that were written."""
        if not self.bad:
            return Columns(self._hashes, self.addresses)
        is_good = np.ones(len(self.addresses), np.bool_)
        is_good[self.addresses.searchsorted(sorted(self.bad))] = False
        return Columns(self._hashes[is_good], self.addresses[is_good])

    def fingerprints(self, sampled: Int64Array) -> dict[int, int]:
        """Return the signed hashes of those of some blocks, ascending, that were written."""
        places = np.minimum(self.addresses.searchsorted(sampled), len(self.addresses) - 1)
        places = places[self.addresses[places] == sampled]
        values = self._hashes[places].tolist()
        found = dict(zip(self.addresses[places].tolist(), values, strict=True))
        return {address: value for address, value in found.items() if address not in self.bad}

    def _write_all(self) -> bool:
        try:
            # While one piece is written, the next ones are read, hashed and compared.
            ready: SimpleQueue[list[tuple[int, memoryview]] | None] = SimpleQueue()
            written: SimpleQueue[BaseException | None] = SimpleQueue()
            thread = Thread(target=self._write_pieces, args=(ready, written), daemon=True)
            thread.start()
            try:
                ahead = 0
                for first, buffer in self._pieces():
                    ready.put(self._differing(first, buffer))
                    ahead += 1
                    if ahead > _PIECES_AHEAD:
                        _raise_if_any(written.get())
                        ahead -= 1
                for _ in range(ahead):
                    _raise_if_any(written.get())
            finally:
                ready.put(None)
                thread.join()
            self.writer.sync()
        except OSError:
            self.equal_blocks = 0
            return False
        return True

    def _write_pieces(
        self,
        ready: SimpleQueue[list[tuple[int, memoryview]] | None],
        written: SimpleQueue[BaseException | None],
    ) -> None:
        """Write the parts of pieces, until None comes; tell of each how that went."""
        while (parts := ready.get()) is not None:
            try:
                for first, part in parts:
                    self.writer.write(part, self._offset(first))
                written.put(None)
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                written.put(error)
                return

    def _differing(self, first: int, buffer: memoryview) -> list[tuple[int, memoryview]]:
        """Return the parts of a piece that upstream does not hold already."""
        count = len(buffer) // self.source.block_size
        if self.unproved.absent_run(first, count) < count:
            return [(first, buffer)]
        self._different += 1
        if self._different > _DIFFERENT_PIECES and self._different % _DIFFERENT_PIECES:
            return [(first, buffer)]
        is_held = held_upstream(self.source, first, buffer, self.buffers[0].data)
        if not is_held.any():
            return [(first, buffer)]
        self._different = 0
        self.equal_blocks += int(is_held.sum())
        size = self.source.block_size
        return [
            (first + at, buffer[at * size : (at + length) * size])
            for at, length in merge_numbers(np.flatnonzero(~is_held))
        ]

    def _find_bad_blocks(self) -> None:
        # What one write and its sync have proved stays so, whatever becomes of later ones.
        for first, buffer in self._pieces():
            self._write_synced(first, buffer)

    def _write_synced(self, first: int, buffer: memoryview, *, is_again: bool = False) -> None:
        size = self.source.block_size
        try:
            self.writer.write_synced(buffer, self._offset(first))
        except OSError as error:
            half = len(buffer) // size // 2
            if half:
                self._write_synced(first, buffer[: half * size])
                self._write_synced(first + half, buffer[half * size :])
            elif is_again:
                self.bad[first] = _reason(error)
            else:
                # A sync tells of all that failed since the last one: it may be another block.
                self._write_synced(first, buffer, is_again=True)

    def _pieces(self) -> Iterator[tuple[int, memoryview]]:
        """Go through the contents as (address of the first block, contents of blocks from there).

        The contents are valid until the last of `_PIECES_AHEAD` + 2 further steps begins.
        """
        most = max(1, _PIECE_BYTES // self.source.block_size)
        buffers = deque(self.buffers[1:])
        for run_start, run_length in merge_numbers(self.addresses):
            at = int(np.searchsorted(self.addresses, run_start))
            for low in range(at, at + run_length, most):
                high = min(low + most, at + run_length)
                is_handed_out = False
                for piece in self._load(low, high, buffers[0]):
                    yield piece
                    is_handed_out = True
                if is_handed_out:
                    buffers.rotate(-1)

    def _load(self, low: int, high: int, into: BlockBuffer) -> Iterator[tuple[int, memoryview]]:
        size = self.source.block_size
        buffer = into.data[: (high - low) * size]
        unreadable = []
        inner = self._runs[bisect_right(self._runs, low) : bisect_left(self._runs, high)]
        for start, end in pairwise([low, *inner, high]):
            part = buffer[(start - low) * size : (end - low) * size]
            try:
                self.source.read(int(self.references[start]), end - start, part)
            except OSError:
                unreadable += self._load_singly(start, end, part)
        self._hashes[low:high] = signed(into.hashes(0, high - low))
        begin = 0
        for stop in [*unreadable, high]:
            index = stop - low
            if index > begin:
                yield int(self.addresses[low + begin]), buffer[begin * size : index * size]
            begin = index + 1

    def _load_singly(self, low: int, high: int, part: memoryview) -> list[int]:
        size = self.source.block_size
        unreadable = []
        for index in range(low, high):
            into = part[(index - low) * size : (index - low + 1) * size]
            try:
                self.source.read(int(self.references[index]), 1, into)
            except OSError as error:
                place = self.source.describe(int(self.references[index]))
                self.bad[int(self.addresses[index])] = (
                    f"its content cannot be read, {place}: {_reason(error)}"
                )
                unreadable.append(index)
        return unreadable

    def _offset(self, address: int) -> int:
        return (address - self.device.first_block) * self.source.block_size


@dataclass(slots=True)
class UpstreamResize:
    """Changes the size of an upstream file."""

    writer: UpstreamWriter
    size_bytes: int
    error: OSError | None = None

    def run(self) -> None:
        """Resize and sync. What fails is left in `error`."""
        try:
            self.writer.resize(self.size_bytes)
        except OSError as error:
            self.error = error


@dataclass(slots=True)
class PieceRead:
    """Reads contents that stand in the way of a flush, to be copied to the COW store."""

    reference: int
    length: int
    source: Source
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    error: str | None = None

    def run(self) -> None:
        """Read. A failure is left in `error`."""
        self.data = new_buffer(self.length * self.source.block_size)
        try:
            self.source.read(self.reference, self.length, self.data)
        except OSError as error:
            self.error = _reason(error)


def _raise_if_any(error: BaseException | None) -> None:
    if error is not None:
        raise error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
