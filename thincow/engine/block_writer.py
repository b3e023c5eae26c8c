"""The write path: split, hash, find, store what is new, map. The only place that stores contents.

Everything that can wait or fail for lack of something comes before the first change; from the
change of the map on nothing fails.
"""

import numpy as np

from thincow.block_types import COW_BASE
from thincow.engine.block_map import BlockMap
from thincow.engine.block_reader import BlockReader, hash_blocks
from thincow.engine.checksums import Checksums
from thincow.engine.cow_store import CowStore
from thincow.engine.deduplication import NEW, Deduplication, Plan
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch
from thincow.engine.free_runs import Run
from thincow.engine.hash_index import HashIndex
from thincow.engine.runs import Int64Array
from thincow.engine.statistics import Statistics
from thincow.errors import PastEndError


class BlockWriter:
    """Writes bytes to virtual devices."""

    def __init__(
        self,
        block_map: BlockMap,
        cow: CowStore,
        reader: BlockReader,
        deduplication: Deduplication,
        hashes: HashIndex,
        checksums: Checksums | None,
        statistics: Statistics,
        block_size: int,
    ) -> None:
        """Write through a map; `checksums` None records nothing."""
        self._map = block_map
        self._cow = cow
        self._reader = reader
        self._deduplication = deduplication
        self._hashes = hashes
        self._checksums = checksums
        self._statistics = statistics
        self._block_size = block_size
        self.new_bytes = 0
        """Bytes stored since this was last set to 0."""

    def write(self, device: Device, offset: int, data: bytes, fetch: Fetch) -> int:
        """Write bytes to a device.

        Args:
            device: where.
            offset: in bytes.
            data: what.
            fetch: contents read before.

        Returns:
            The number of bytes written: fewer than given at the end of the device.

        Raises:
            WouldBlock: when the fetch has to run first.
            PastEndError: when the write starts at or past the end.
            NoSpaceError: when new content has no room.
            BlockReadError: when the rest of a block that is written in part cannot be read.
            OSError: when the COW store cannot be written.
        """
        taken = min(len(data), device.size_bytes - offset)
        if taken <= 0:
            if not data:
                return 0
            raise PastEndError(f"{device.name}: write past the end")
        if taken < len(data):
            data = data[:taken]
        first = offset // self._block_size
        blocks = self._whole_blocks(device, offset, data, fetch)
        self._write_blocks(device.first_block + first, blocks, fetch)
        return taken

    def _whole_blocks(self, device: Device, offset: int, data: bytes, fetch: Fetch) -> bytes:
        """Return the blocks that a write touches, completed with what they hold now."""
        size = self._block_size
        head = offset % size
        end = offset + len(data)
        tail = -end % size
        if not head and not tail:
            return data
        first, last = offset // size, (end - 1) // size
        buffer = bytearray(head + len(data) + tail)
        view = memoryview(buffer)
        if head:
            self._load_block(device, first, view[:size], fetch)
        # What lies past the end of the device is zero.
        if tail and end < device.size_bytes and not (head and first == last):
            self._load_block(device, last, view[-size:], fetch)
        view[head : head + len(data)] = data
        return bytes(buffer)

    def _load_block(self, device: Device, block: int, into: memoryview, fetch: Fetch) -> None:
        errors = self._reader.load(device, block, 1, into, fetch)
        if errors:
            raise errors[0]

    def _write_blocks(self, address: int, data: bytes, fetch: Fetch) -> None:
        hashes = hash_blocks(data, self._block_size)
        plan = self._deduplication.plan(address, data, hashes, fetch)
        references = plan.references
        new = np.flatnonzero(references == NEW)
        runs = self._store(data, new) if len(new) else []
        try:
            if runs:
                references[new] = _numbers(runs) + COW_BASE
            for index, first in plan.repeats():
                references[index] = references[first]
            self._assign(address, plan)
        except BaseException:
            self._cow.give_back(runs)
            raise
        if runs:
            stored = references[new].tolist()
            self._hashes.note([hashes[index] for index in new.tolist()], stored)
            self.new_bytes += len(stored) * self._block_size
        if self._checksums is not None:
            self._checksums.record(address, hashes)
        is_last_new = bool(runs) and int(new[-1]) == len(hashes) - 1
        self._deduplication.expect(address, references, matched=not is_last_new)
        self._count(plan, len(hashes), len(new))

    def _assign(self, address: int, plan: Plan) -> None:
        if plan.earlier:
            # One change for all: what the write releases may be what earlier blocks now refer to.
            parts = [references for _, references in reversed(plan.earlier)]
            self._map.assign(plan.earlier[-1][0], np.concatenate([*parts, plan.references]))
        else:
            self._map.assign(address, plan.references)

    def _store(self, data: bytes, new: Int64Array) -> list[Run]:
        """Write the blocks with the given indexes to freshly allocated COW blocks."""
        size = self._block_size
        runs = self._cow.allocate(len(new))
        try:
            if len(runs) == 1 and len(new) * size == len(data):
                self._cow.file.write(data, runs[0][0] * size)
                return runs
            view = memoryview(data)
            done = 0
            for start, length in runs:
                for begin, part in _consecutive(new[done : done + length]):
                    contents = view[begin * size : (begin + part) * size]
                    self._cow.file.write(contents, start * size)
                    start += part
                done += length
        except BaseException:
            self._cow.give_back(runs)
            raise
        return runs

    def _count(self, plan: Plan, blocks: int, new: int) -> None:
        statistics = self._statistics
        statistics.blocks_written += blocks
        statistics.blocks_new += new
        statistics.blocks_zero += plan.zero
        statistics.blocks_dedup_hash += plan.by_hash
        statistics.blocks_dedup_run += plan.by_run
        statistics.blocks_dedup_retroactive += plan.retroactive


def _numbers(runs: list[Run]) -> Int64Array:
    if len(runs) == 1:
        return np.arange(runs[0][0], runs[0][0] + runs[0][1], dtype=np.int64)
    return np.concatenate([np.arange(start, start + length) for start, length in runs])


def _consecutive(indexes: Int64Array) -> list[tuple[int, int]]:
    """Return the runs (first, length) of consecutive numbers in an ascending array."""
    breaks = np.flatnonzero(np.diff(indexes) != 1) + 1
    starts = np.concatenate(([0], breaks))
    lengths = np.diff(starts, append=len(indexes))
    return list(zip(indexes[starts].tolist(), lengths.tolist(), strict=True))
