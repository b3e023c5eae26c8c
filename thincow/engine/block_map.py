"""The map: a reference for each virtual block, and the only place that changes one.

Changes reference counts together with the map, new references before old ones are released.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from thincow.block_types import COW_BASE, ZERO
from thincow.engine.cow_counts import CowBlocks
from thincow.engine.cow_store import CowStore
from thincow.engine.runs import Int64Array, ReferenceCodec, split
from thincow.engine.window_cache import FrozenWindow, Window, WindowCache

_CODEC = ReferenceCodec()


class BlockMap:
    """References of all devices, by block address."""

    def __init__(self, windows: WindowCache, cow: CowStore) -> None:
        """Read and change references through a cache; keep the counts of `cow` equal to them."""
        self._windows = windows
        self._cow = cow
        self.changes = 0
        """Runs changed since the last freeze."""
        self.watched: list[tuple[int, int]] | None = None
        """Takes the runs (address, length) that change, while a flush wants to know."""

    @property
    def windows(self) -> WindowCache:
        """The cache of references."""
        return self._windows

    def reference(self, address: int) -> int:
        """Return the reference of one block."""
        windows = self._windows
        return windows.get(address >> windows.shift).cells[address & windows.mask]

    def references(self, address: int, length: int) -> Int64Array:
        """Return the references of `length` blocks, as an array that must not be changed."""
        parts = [window.values[low:high] for window, low, high in self._segments(address, length)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def runs(self, address: int, length: int) -> list[tuple[int, int]]:
        """Return the runs of `length` blocks as (reference of the first, length in blocks)."""
        if length == 1:
            return [(self.reference(address), 1)]
        values = self.references(address, length)
        starts = split(_CODEC, values)
        if len(starts) == 1:
            return [(int(values[0]), length)]
        lengths = np.diff(starts, append=length)
        return list(zip(values[starts].tolist(), lengths.tolist(), strict=True))

    def assign(self, address: int, runs: Sequence[tuple[int, int]]) -> None:
        """Give consecutive blocks new references, as runs of (reference, length in blocks).

        Counts of the COW blocks involved follow. Nothing has changed when this raises (a window
        that cannot be loaded).
        """
        if len(runs) == 1 and runs[0][1] == 1:
            self._assign_one(address, runs[0][0])
            return
        changes = []
        cow = self._cow
        for reference, length in runs:
            for window, low, high in self._segments(address, length):
                change = _change(window, low, high, reference)
                if change is not None:
                    cow.preload(change.added)
                    cow.preload(change.dropped)
                    changes.append(change)
                if reference != ZERO:
                    reference += high - low
            address += length
        self.changes += len(changes)
        # All new references first: a block may leave one place and enter another.
        for change in changes:
            cow.add_references(change.added)
        for change in changes:
            window, low, high = change.window, change.low, change.high
            self._windows.change(window, low, high)
            if self.watched is not None:
                self.watched.append((window.first_block + low, high - low))
            if high - low == 1:
                window.cells[low] = change.reference
            elif change.reference == ZERO:
                window.values[low:high] = ZERO
            else:
                window.values[low:high] = np.arange(change.reference, change.reference + high - low)
        for change in changes:
            cow.drop_references(change.dropped)

    def _assign_one(self, address: int, reference: int) -> None:
        """Do what `assign` does, without what many blocks need."""
        windows = self._windows
        window, low = windows.get(address >> windows.shift), address & windows.mask
        old = window.cells[low]
        if old == reference:
            return
        self._cow.move_reference(
            reference - COW_BASE if reference >= COW_BASE else None,
            old - COW_BASE if old >= COW_BASE else None,
        )
        self.changes += 1
        windows.change(window, low, low + 1)
        window.cells[low] = reference
        if self.watched is not None:
            self.watched.append((address, 1))

    @contextmanager
    def unwatched(self) -> Iterator[None]:
        """Leave the changes made meanwhile out of `watched`."""
        watched, self.watched = self.watched, None
        try:
            yield
        finally:
            self.watched = watched

    def changed_windows(self) -> list[tuple[int, Int64Array, Int64Array]]:
        """Return (first block, committed values, values) of windows changed in this epoch."""
        return [
            (window.first_block, window.base, window.values)
            for window in self._windows.dirty()
            if window.base is not None
        ]

    def freeze(self) -> list[FrozenWindow]:
        """End the epoch and return its changes."""
        self.changes = 0
        return self._windows.freeze()

    def _segments(self, address: int, length: int) -> Iterator[tuple[Window, int, int]]:
        windows = self._windows
        while length > 0:
            low = address & windows.mask
            high = min(low + length, windows.window_blocks)
            yield windows.get(address >> windows.shift), low, high
            address += high - low
            length -= high - low


@dataclass(frozen=True, slots=True)
class _Change:
    """New references of positions [low, high) of a window, and the COW blocks concerned."""

    window: Window
    low: int
    high: int
    reference: int
    added: CowBlocks
    dropped: CowBlocks


def _change(window: Window, low: int, high: int, reference: int) -> _Change | None:
    """Return what it takes to give positions a run of references; None when they have it."""
    length = high - low
    before = window.values[low:high]
    after = (
        np.full(length, ZERO, np.int64)
        if reference == ZERO
        else np.arange(reference, reference + length, dtype=np.int64)
    )
    same = before == after
    if same.all():
        return None
    replaced = before[~same & (before >= COW_BASE)] - COW_BASE
    if reference < COW_BASE:
        gained: CowBlocks = None
    elif same.any():
        gained = after[~same] - COW_BASE
    else:
        gained = (reference - COW_BASE, length)
    return _Change(window, low, high, reference, gained, _as_run(replaced))


def _as_run(blocks: Int64Array) -> CowBlocks:
    """Return sorted consecutive blocks as a run, none as None, others as they are."""
    count = len(blocks)
    if not count:
        return None
    first = int(blocks[0])
    if int(blocks[-1]) - first == count - 1 and (np.diff(blocks) == 1).all():
        return first, count
    return blocks
