"""The write path: split, hash, find, store what is new, map. The only place that stores contents.

Everything that can wait or fail for lack of something comes before the first change; from the
change of the map on nothing fails.
"""

from bisect import bisect_right

from xxhash import xxh3_64_intdigest

from thincow.block_types import COW_BASE
from thincow.engine.block_map import BlockMap
from thincow.engine.block_reader import BlockReader
from thincow.engine.buffers import hash_blocks
from thincow.engine.checksums import Checksums
from thincow.engine.cow_store import CowStore
from thincow.engine.deduplication import Deduplication
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch
from thincow.engine.free_runs import Run
from thincow.engine.hash_index import HashIndex
from thincow.engine.statistics import Statistics
from thincow.engine.write_plan import NEW, Plan
from thincow.errors import PastEndError, TooLargeError


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

    def write(self, device: Device, offset: int, data: bytes, fetch: Fetch) -> int:
        """Write bytes to a device, also past its end if it can grow; its size is not changed.

        Args:
            device: where.
            offset: in bytes.
            data: what.
            fetch: contents read before.

        Returns:
            The number of bytes written: fewer than given at the end of what can be.

        Raises:
            WouldBlock: when the fetch has to run first.
            PastEndError: when the write starts at or past the end.
            NoSpaceError: when new content has no room.
            BlockReadError: when the rest of a block that is written in part cannot be read.
            OSError: when the COW store cannot be written.
        """
        size = self._block_size
        if len(data) == size and not offset % size and offset + size <= device.size_bytes:
            self._write_block(device.first_block + offset // size, data, fetch)
            return size
        taken = min(len(data), device.max_bytes - offset)
        if taken <= 0:
            if not data:
                return 0
            if device.is_resizable:
                raise TooLargeError(f"{device.name} can have {device.max_bytes} bytes, no more")
            raise PastEndError(f"{device.name}: write past the end")
        if taken < len(data):
            data = data[:taken]
        first = offset // size
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
        # What lies past the end of the device is zero, and nothing is to be noted of it.
        if head and first * size < device.size_bytes:
            view[:size] = self._reader.load_block(device, first, fetch)
        if tail and end < device.size_bytes and not (head and first == last):
            view[-size:] = self._reader.load_block(device, last, fetch)
        view[head : head + len(data)] = data
        return bytes(buffer)

    def _write_block(self, address: int, data: bytes, fetch: Fetch) -> None:
        """Do what `_write_blocks` does; most single blocks are new, and need less then."""
        value = xxh3_64_intdigest(data)
        if not self._deduplication.leads_nowhere(address, value):
            self._write_blocks(address, data, fetch)
            return
        sums = self._checksums
        if sums is not None:
            sums.windows.preload(address, 1)
        block = self._cow.allocate_one()
        reference = COW_BASE + block
        try:
            self._cow.file.write(data, block * self._block_size)
            self._map.assign_one(address, reference)
        except BaseException:
            self._cow.give_back([(block, 1)])
            raise
        self._hashes.note_one_stored(value, reference)
        if sums is not None:
            sums.record_one(address, value)
        self._statistics.blocks_written += 1
        self._statistics.blocks_new += 1

    def _write_blocks(self, address: int, data: bytes, fetch: Fetch) -> None:
        plan = self._deduplication.plan(address, data, fetch)
        hashes = plan.hashes
        count = len(data) // self._block_size
        if self._checksums is not None:
            hashes = hashes or hash_blocks(data, self._block_size)
            self._checksums.windows.preload(address, count)
        fresh: list[tuple[int, int, int]] = []
        stored = self._cow.allocate(plan.new) if plan.new else []
        try:
            if not stored:
                runs = plan.runs
            else:
                runs, fresh = self._store(data, plan.runs, stored)
            # One change for all: what the write releases may be what earlier blocks now refer to.
            earlier = sum(length for _, length in plan.earlier)
            self._map.assign(address - earlier, [*plan.earlier, *runs])
        except BaseException:
            self._cow.give_back(stored)
            raise
        for at, reference, length in fresh:
            self._hashes.note_stored(hashes[at : at + length], range(reference, reference + length))
        if self._checksums is not None:
            self._checksums.record(address, hashes)
        self._deduplication.expect(address, address + count, plan.runs[-1])
        self._count(plan, count)

    def _store(
        self, data: bytes, planned: list[Run], stored: list[Run]
    ) -> tuple[list[Run], list[tuple[int, int, int]]]:
        """Write what is new to the allocated blocks `stored`.

        Returns:
            The runs that result, and what was written as (index, reference, length in blocks).
        """
        size = self._block_size
        view = memoryview(data)
        runs: list[Run] = []
        starts: list[int] = []
        fresh: list[tuple[int, int, int]] = []
        free = iter(stored)
        block, left = next(free)
        at = 0
        for reference, length in planned:
            if reference != NEW:
                first = Plan.repeated(reference)
                if first is not None:
                    run = bisect_right(starts, first) - 1
                    reference = runs[run][0] + first - starts[run]
                runs.append((reference, length))
                starts.append(at)
                at += length
                continue
            while length:
                if not left:
                    block, left = next(free)
                part = min(length, left)
                self._cow.file.write(view[at * size : (at + part) * size], block * size)
                runs.append((COW_BASE + block, part))
                starts.append(at)
                fresh.append((at, COW_BASE + block, part))
                block, left = block + part, left - part
                at, length = at + part, length - part
        return runs, fresh

    def _count(self, plan: Plan, blocks: int) -> None:
        statistics = self._statistics
        statistics.blocks_written += blocks
        statistics.blocks_new += plan.new
        statistics.blocks_zero += plan.zero
        statistics.blocks_dedup_hash += plan.by_hash
        statistics.blocks_dedup_run += plan.by_run
        statistics.blocks_dedup_retroactive += plan.retroactive
