"""Checksums of virtual blocks: what was last written to, or first read from, each of them.

A sum is the low bits of the block's hash. Blocks without a record are unchecked.
"""

from collections.abc import Sequence

import numpy as np

from thincow.engine.runs import Int64Array
from thincow.engine.window_cache import FrozenWindow, WindowCache
from thincow.store import checksums_table
from thincow.store.checksums_table import CHUNK_BLOCKS, NO_SUM
from thincow.store.connection import Connection

_ALL_BITS = 64


class Checksums:
    """Sums by block address, in windows."""

    def __init__(self, windows: WindowCache, bits: int, *, keeps_new: bool = True) -> None:
        """Keep sums of `bits` bits in a cache of windows."""
        self.windows = windows
        self.bits = bits
        self.keeps_new = keeps_new
        """Record blocks that are read for the first time; no use when nothing is committed."""

    def record(self, address: int, hashes: Sequence[int]) -> None:
        """Set the sums of consecutive blocks from their hashes."""
        self._store(address, sums_of(hashes, self.bits), only_missing=False)

    def verify(self, address: int, hashes: Sequence[int]) -> list[int]:
        """Compare consecutive blocks with their sums; record those that have none, if wanted.

        Returns:
            The indexes of the blocks that differ.
        """
        sums = sums_of(hashes, self.bits)
        known = self._load(address, len(sums))
        differ = known != sums
        if not differ.any():
            return []
        is_known = known != NO_SUM
        is_first_time = not is_known.any()
        if self.keeps_new and (is_first_time or not is_known.all()):
            self._store(address, sums, only_missing=not is_first_time)
        found: list[int] = [] if is_first_time else np.flatnonzero(differ & is_known).tolist()
        return found

    def record_one(self, address: int, value: int) -> None:
        """Set the sum of one block from its hash, as `record` does."""
        self._store_one(address, _sum_of(value, self.bits))

    def verify_one(self, address: int, value: int) -> bool:
        """Compare one block with its sum, as `verify` does; tell whether it may be right."""
        windows = self.windows
        known = windows.get(address >> windows.shift).cells[address & windows.mask]
        found = _sum_of(value, self.bits)
        if known != NO_SUM:
            return bool(known == found)
        if self.keeps_new:
            self._store_one(address, found)
        return True

    def _store_one(self, address: int, new: int) -> None:
        windows = self.windows
        window, at = windows.get(address >> windows.shift), address & windows.mask
        if window.cells[at] != new:
            windows.change(window, at, at + 1)
            window.cells[at] = new

    def forget(self, address: int, length: int) -> None:
        """Take the sums of blocks away: they are unchecked from now on."""
        self._store(address, np.full(length, NO_SUM, np.int64), only_missing=False)

    def _load(self, address: int, length: int) -> Int64Array:
        windows = self.windows
        parts = []
        while length > 0:
            low = address & windows.mask
            part = min(length, windows.window_blocks - low)
            parts.append(windows.get(address >> windows.shift).values[low : low + part])
            address += part
            length -= part
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _store(self, address: int, sums: Int64Array, *, only_missing: bool) -> None:
        windows = self.windows
        while len(sums):
            low = address & windows.mask
            part = sums[: windows.window_blocks - low]
            high = low + len(part)
            window = windows.get(address >> windows.shift)
            old = window.values[low:high]
            new = np.where(old == NO_SUM, part, old) if only_missing else part
            if (old != new).any():
                windows.change(window, low, high)
                window.values[low:high] = new
            address += len(part)
            sums = sums[len(part) :]


def sums_of(hashes: Sequence[int], bits: int) -> Int64Array:
    """Return the sums, `bits` wide, of blocks with these hashes."""
    values = np.fromiter(hashes, np.uint64, len(hashes))
    if bits < _ALL_BITS:
        return (values & np.uint64((1 << bits) - 1)).astype(np.int64)
    sums: Int64Array = values.view(np.int64)
    sums[sums == NO_SUM] = NO_SUM - 1
    return sums


def _sum_of(value: int, bits: int) -> int:
    if bits < _ALL_BITS:
        return value & ((1 << bits) - 1)
    signed = value - (1 << _ALL_BITS) if value >> (_ALL_BITS - 1) else value
    return NO_SUM - 1 if signed == NO_SUM else signed


def write(db: Connection, frozen: list[FrozenWindow], bits: int) -> None:
    """Store the changed chunks of a frozen epoch, in the caller's transaction."""
    for part in frozen:
        begin = part.low - part.low % CHUNK_BLOCKS
        for low in range(begin, part.high, CHUNK_BLOCKS):
            values = part.values[low : low + CHUNK_BLOCKS]
            checksums_table.store_chunk(db, part.window.first_block + low, values, bits)


def default_window(length: int) -> Int64Array:
    """Return the values of a window without any record."""
    return np.full(length, NO_SUM, np.int64)
