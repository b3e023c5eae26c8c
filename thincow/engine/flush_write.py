"""The slow part of a flush: contents to their own places upstream. For any one thread.

Writes are ascending and large; what upstream is seen to hold already is left out, but synced all
the same.
When a write fails, or the sync after them, everything is written again, and the blocks at fault
are found by writing halves synchronously: a buffered error names no offset.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.buffers import new_buffer
from thincow.engine.device import Device
from thincow.engine.flush_compare import held_upstream
from thincow.engine.flush_source import Source
from thincow.engine.runs import Int64Array, ReferenceCodec, merge_numbers, split
from thincow.store.upstream_writer import UpstreamWriter

_PIECE_BYTES = 1 << 20
_DIFFERENT_PIECES = 8
"""After so many pieces of which upstream held nothing, only one in as many is compared."""
_CODEC = ReferenceCodec()


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
    bad: dict[int, str] = field(default_factory=dict)
    """Addresses that were not written, and why."""
    hashes: npt.NDArray[np.uint64] = field(init=False)
    """Unsigned hash of each block; of those in `bad` that mean nothing."""
    equal_blocks: int = 0
    """How many blocks upstream held already."""
    mtime_ns: int | None = None
    _scratch: memoryview = field(init=False)
    _different: int = 0
    """Pieces since the last one of which upstream held anything."""

    def __post_init__(self) -> None:
        self.hashes = np.zeros(len(self.addresses), np.uint64)
        self._scratch = new_buffer(max(_PIECE_BYTES, self.source.block_size))

    def run(self) -> None:
        """Write and sync. What fails is left in `bad`."""
        if not self._write_all():
            self._find_bad_blocks()
        self.mtime_ns = self.writer.mtime_ns()

    def fingerprints(self, sampled: Iterable[int]) -> dict[int, int]:
        """Return the signed hashes of some of the blocks that were written, by address."""
        addresses = sorted(sampled)
        values = self.hashes[np.searchsorted(self.addresses, addresses)].view(np.int64)
        return dict(zip(addresses, values.tolist(), strict=True))

    def _write_all(self) -> bool:
        try:
            # One piece is written while the next one is read, hashed and compared.
            with ThreadPoolExecutor(1) as thread:
                writing: Future[None] | None = None
                for first, buffer in self._pieces():
                    parts = self._differing(first, buffer)
                    if writing is not None:
                        writing.result()
                    writing = thread.submit(self._write_parts, parts)
                if writing is not None:
                    writing.result()
            self.writer.sync()
        except OSError:
            self.equal_blocks = 0
            return False
        return True

    def _write_parts(self, parts: list[tuple[int, memoryview]]) -> None:
        for first, part in parts:
            self.writer.write(part, self._offset(first))

    def _differing(self, first: int, buffer: memoryview) -> list[tuple[int, memoryview]]:
        """Return the parts of a piece that upstream does not hold already."""
        count = len(buffer) // self.source.block_size
        if self.unproved.absent_run(first, count) < count:
            return [(first, buffer)]
        self._different += 1
        if self._different > _DIFFERENT_PIECES and self._different % _DIFFERENT_PIECES:
            return [(first, buffer)]
        is_held = held_upstream(self.source, first, buffer, self._scratch)
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

        The contents are valid until the step after the next one, while the other buffer is used.
        """
        size = self.source.block_size
        most = max(1, _PIECE_BYTES // size)
        buffer, other = new_buffer(most * size), new_buffer(most * size)
        for run_start, run_length in merge_numbers(self.addresses):
            at = int(np.searchsorted(self.addresses, run_start))
            for low in range(at, at + run_length, most):
                high = min(low + most, at + run_length)
                is_handed_out = False
                for piece in self._load(low, high, buffer[: (high - low) * size]):
                    yield piece
                    is_handed_out = True
                if is_handed_out:
                    buffer, other = other, buffer

    def _load(self, low: int, high: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
        size = self.source.block_size
        references = self.references[low:high]
        starts = split(_CODEC, references).tolist()
        unreadable = []
        for start, end in zip(starts, [*starts[1:], high - low], strict=True):
            part = buffer[start * size : end * size]
            try:
                self.source.read(int(references[start]), end - start, part)
            except OSError:
                unreadable += self._load_singly(low + start, low + end, part)
        self.hashes[low:high] = [
            xxh3_64_intdigest(buffer[at : at + size]) for at in range(0, len(buffer), size)
        ]
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
    data: bytearray = field(default_factory=bytearray)
    error: str | None = None

    def run(self) -> None:
        """Read. A failure is left in `error`."""
        self.data = bytearray(self.length * self.source.block_size)
        try:
            self.source.read(self.reference, self.length, memoryview(self.data))
        except OSError as error:
            self.error = _reason(error)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
