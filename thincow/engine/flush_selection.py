"""Chooses what a flush writes next. Reads the committed map and compares it with the running one.

A block is a candidate when it is not its own upstream block and has not changed since the last
commit. It is *needed* while another block's content is at its upstream place.
"""

from dataclasses import dataclass

import numpy as np

from thincow.block_types import DEVICE_SHIFT
from thincow.engine.block_map import BlockMap
from thincow.engine.block_ranges import BlockRanges
from thincow.engine.device import Device
from thincow.engine.free_runs import Run
from thincow.engine.runs import BoolArray, Int64Array, merge_numbers
from thincow.store import extents_table
from thincow.store.connection import Connection

_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Selection:
    """Candidates of one device, ascending; `next_address` is where to go on (None: at the end)."""

    addresses: Int64Array
    references: Int64Array
    needed: BoolArray
    next_address: int | None

    def free(self, limit: int) -> "Selection":
        """Return the candidates that nobody needs, at most `limit`."""
        chosen = np.flatnonzero(~self.needed)[:limit]
        return Selection(
            self.addresses[chosen],
            self.references[chosen],
            self.needed[chosen],
            self.next_address,
        )


class FlushSelector:
    """Looks for candidates. For the thread that serves requests, with no commit under way."""

    def __init__(self, reader: Connection, block_map: BlockMap) -> None:
        """Read committed extents through `reader`."""
        self._reader = reader
        self._map = block_map

    def select(
        self, device: Device, first_block: int, max_blocks: int, *skipped: BlockRanges
    ) -> Selection:
        """Return candidates of a device from a block address on.

        Args:
            device: whose blocks.
            first_block: where to begin.
            max_blocks: how many to look for.
            skipped: blocks to leave out.
        """
        parts: list[tuple[Int64Array, Int64Array]] = []
        found = 0
        position: int | None = first_block
        while position is not None and found < max_blocks:
            begin = position
            rows = extents_table.load_from(
                self._reader, begin, device.flush_end, self._map.windows.window_blocks, _ROWS
            )
            position = None
            for start, length, reference in rows:
                skip = max(0, begin - start)
                taken = min(length - skip, device.flush_end - start - skip, max_blocks - found)
                offsets = np.arange(skip, skip + taken, dtype=np.int64)
                step = 0 if reference < 0 else 1
                parts.append((start + offsets, reference + step * offsets))
                found += taken
                if found == max_blocks or len(rows) == _ROWS:
                    position = start + skip + taken
                if found == max_blocks:
                    break
        if not parts:
            empty = np.empty(0, np.int64)
            return Selection(empty, empty, np.empty(0, np.bool_), None)
        addresses = np.concatenate([part[0] for part in parts])
        references = np.concatenate([part[1] for part in parts])
        kept = self._unchanged(addresses)
        for ranges in skipped:
            kept &= ~ranges.contains(addresses)
        addresses, references = addresses[kept], references[kept]
        needed = self.needed(addresses)
        return Selection(addresses, references, needed, position)

    def needed(self, addresses: Int64Array, by: frozenset[int] | None = None) -> BoolArray:
        """Tell which upstream blocks others show: only devices with these ids count, None: any."""
        needed = np.zeros(len(addresses), np.bool_)
        if not len(addresses):
            return needed
        start, end = int(addresses[0]), int(addresses[-1]) + 1
        for first, count, target in extents_table.load_users(self._reader, start, end):
            if by is None or first >> DEVICE_SHIFT in by:
                low, high = np.searchsorted(addresses, (target, target + count))
                needed[low:high] = True
        for first, _, values in self._map.changed_windows():
            if by is not None and first >> DEVICE_SHIFT not in by:
                continue
            own = np.arange(first, first + len(values))
            used = values[(values >= start) & (values < end) & (values != own)]
            needed |= np.isin(addresses, used)
        return needed

    def users(self, start: int, length: int) -> list[Run]:
        """Return runs of virtual blocks whose content is, or was, in a range of upstream."""
        end = start + length
        runs = []
        for first, count, target in extents_table.load_users(self._reader, start, end):
            low, high = max(target, start), min(target + count, end)
            runs.append((first + low - target, high - low))
        for first, _, values in self._map.changed_windows():
            inside = np.flatnonzero((values >= start) & (values < end))
            runs += merge_numbers(inside + first)
        return runs

    def _unchanged(self, addresses: Int64Array) -> BoolArray:
        unchanged = np.ones(len(addresses), np.bool_)
        for first, base, values in self._map.changed_windows():
            low, high = np.searchsorted(addresses, (first, first + len(values)))
            at = addresses[low:high] - first
            unchanged[low:high] &= base[at] == values[at]
        return unchanged
