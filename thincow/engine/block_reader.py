"""The read path: contents of virtual blocks, checked, and noted for deduplication.

Nothing is changed before all contents are there; then a call runs through without waiting.
"""

import logging

from xxhash import xxh3_64_intdigest

from thincow.block_types import COW_BASE
from thincow.engine.block_map import BlockMap
from thincow.engine.buffers import REQUEST_BYTES, BlockBuffer
from thincow.engine.checksums import Checksums
from thincow.engine.contents import Contents
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.hash_index import HashIndex
from thincow.engine.seen_blocks import SeenBlocks
from thincow.engine.statistics import Statistics
from thincow.errors import BlockReadError, ChecksumError

_log = logging.getLogger(__name__)


class BlockReader:
    """Reads bytes of virtual devices."""

    def __init__(
        self,
        block_map: BlockMap,
        contents: Contents,
        hashes: HashIndex | None,
        seen: SeenBlocks,
        checksums: Checksums | None,
        statistics: Statistics,
        block_size: int,
    ) -> None:
        """Read through a map; `hashes` None notes nothing, `checksums` None checks nothing."""
        self._map = block_map
        self._contents = contents
        self._hashes = hashes
        self._seen = seen
        self._checksums = checksums
        self._statistics = statistics
        self._block_size = block_size
        self._use(BlockBuffer(block_size, max(1, REQUEST_BYTES // block_size)))

    def _use(self, buffer: BlockBuffer) -> None:
        self._buffer = buffer
        self._scratch = buffer.data
        self._block = buffer.data[: self._block_size]

    def read(self, device: Device, offset: int, length: int, fetch: Fetch) -> memoryview:
        """Read bytes of a device; fewer at its end or before a block that cannot be read.

        Args:
            device: what to read.
            offset: in bytes.
            length: in bytes.
            fetch: contents read before.

        Returns:
            A view that is valid until the next call.

        Raises:
            WouldBlock: when the fetch has to run first.
            BlockReadError, ChecksumError: when the first block cannot be read.
        """
        end = min(offset + length, device.size_bytes)
        if offset >= end:
            return self._scratch[:0]
        size = self._block_size
        first = offset // size
        is_one = first * size == offset == end - size and not fetch.has_contents
        if is_one and self._load_one(device.first_block + first):
            return self._block
        count = (end - 1) // size - first + 1
        bad = self._load(device, first, count, fetch)
        if bad:
            good = min(bad)
            if good == 0:
                raise bad[0]
            end = min(end, (first + good) * size)
        skip = offset - first * size
        return self._scratch[skip : skip + end - offset]

    def load_block(self, device: Device, block: int, fetch: Fetch) -> memoryview:
        """Return one block of a device, valid until the next call.

        Raises:
            WouldBlock: when the fetch has to run first.
            BlockReadError, ChecksumError: when it cannot be read.
        """
        for error in self._load(device, block, 1, fetch).values():
            raise error
        return self._block

    def _load_one(self, address: int) -> bool:
        """Load a block into `_block`, if that can be done at once; `load` does the others."""
        reference = self._map.reference(address)
        if not self._contents.load_one(reference, self._block):
            return False
        hashes, sums = self._hashes, self._checksums
        value = None
        if sums is not None:
            value = xxh3_64_intdigest(self._block)
            if not sums.verify_one(address, value):
                return False
        if (
            0 <= reference < COW_BASE
            and reference not in self._seen
            and hashes is not None
            and hashes.takes_hints
        ):
            hashes.note_one_read(value or xxh3_64_intdigest(self._block), reference)
            self._seen.add_one(reference)
        return True

    def _load(
        self, device: Device, first: int, count: int, fetch: Fetch
    ) -> dict[int, BlockReadError]:
        """Put whole blocks of a device, from block `first` of it on, into the buffer.

        Returns:
            The error of each block (by index from `first`) that cannot be read.

        Raises:
            WouldBlock: when the fetch has to run first.
        """
        size = self._block_size
        if count * size > len(self._scratch):
            self._use(BlockBuffer(size, count))
        buffer = self._scratch[: count * size]
        runs = self._map.runs(device.first_block + first, count)
        errors: dict[int, BlockReadError] = {}
        at = 0
        waiting = False
        for reference, length in runs:
            into = buffer if length == count else buffer[at * size : (at + length) * size]
            bad = self._contents.load(reference, length, into, fetch)
            if bad is None:
                waiting = True
            elif bad:
                for index in bad:
                    errors[at + index] = BlockReadError(
                        f"{device.name}: cannot read byte {(first + at + index) * size}"
                    )
            at += length
        if waiting:
            raise WouldBlock(fetch)
        hashes = None
        if self._checksums is not None:
            hashes = self._buffer.hashes(0, count)
            self._verify(device, first, hashes, errors)
        if self._hashes is not None and self._hashes.takes_hints:
            self._note(runs, hashes, errors)
        return errors

    def _verify(
        self,
        device: Device,
        first: int,
        hashes: list[int],
        errors: dict[int, BlockReadError],
    ) -> None:
        """Add the errors of those blocks that could be read but have other hashes than they had."""
        assert self._checksums is not None
        size = self._block_size
        good_from = 0
        for stop in [*sorted(errors), len(hashes)]:
            if stop > good_from:
                start = device.first_block + first + good_from
                for index in self._checksums.verify(start, hashes[good_from:stop]):
                    at = good_from + index
                    text = f"{device.name}: checksum differs at byte {(first + at) * size}"
                    _log.error("%s", text)
                    self._statistics.checksum_errors += 1
                    errors[at] = ChecksumError(text)
            good_from = stop + 1

    def _note(
        self,
        runs: list[tuple[int, int]],
        hashes: list[int] | None,
        errors: dict[int, BlockReadError],
    ) -> None:
        """Note what was read of upstream for the first time; `hashes` None: not known yet."""
        assert self._hashes is not None
        at = 0
        for reference, length in runs:
            if 0 <= reference < COW_BASE and not (length == 1 and reference in self._seen):
                for start, part in self._seen.unseen(reference, length):
                    begin = at + start - reference
                    if errors and any(begin <= bad < begin + part for bad in errors):
                        continue
                    if hashes is None:
                        values = self._buffer.hashes(begin, part)
                    else:
                        values = hashes[begin : begin + part]
                    self._hashes.note_read(values, start)
                    self._seen.add(start, part)
            at += length
