"""The map: a reference for each virtual block, and the only place that changes one.

Changes reference counts together with the map, new references before old ones are released.

A block without an extent is held as a reference to its own place, whether upstream is shown there
or not. What comes out of the map says ZERO where it is not (upstream ends before, or was cut), and
ZERO goes in as that: so a device of any size takes no rows for what was never written.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from thincow.block_types import COW_BASE, MAX_ADDRESS, ZERO
from thincow.engine.cow_counts import CowBlocks
from thincow.engine.cow_store import CowStore
from thincow.engine.runs import Int64Array, ReferenceCodec, split
from thincow.engine.window_cache import FrozenWindow, Window, WindowCache

_CODEC = ReferenceCodec()


class BlockMap:
    """References of all devices, by block address."""

    def __init__(
        self,
        windows: WindowCache,
        cow: CowStore,
        own_end: Callable[[int], int] = lambda _address: MAX_ADDRESS,
    ) -> None:
        """Read and change references through a cache; keep the counts of `cow` equal to them.

        `own_end` gives the address from which on blocks of the device of an address do not show
        their own place upstream.
        """
        self._windows = windows
        self._cow = cow
        self._own_end = own_end
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
        found = windows.get(address >> windows.shift).cells[address & windows.mask]
        if found == address and address >= self._own_end(address):
            return ZERO
        return found

    def references(self, address: int, length: int) -> Int64Array:
        """Return the references of `length` blocks, as an array that must not be changed."""
        parts = [window.values[low:high] for window, low, high in self._segments(address, length)]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        own_end = self._own_end(address)
        if address + length <= own_end:
            return values
        own = np.arange(address, address + length)
        return np.where((values == own) & (own >= own_end), ZERO, values)

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
            self.assign_one(address, runs[0][0])
            return
        changes = []
        cow = self._cow
        own_end = self._own_end(address)
        for reference, length in _held(address, runs, own_end):
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

    def assign_one(self, address: int, reference: int) -> None:
        """Do what `assign` does for one block, without what many blocks need."""
        if reference == ZERO and address >= self._own_end(address):
            reference = address
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

    def forget(self, address: int, length: int) -> None:
        """Take the extents of a range away whose blocks do not show their own place.

        Nothing has changed when this raises, and nothing can fail when `preload` came first.
        """
        assert address >= self._own_end(address)
        self.assign(address, [(ZERO, length)])

    def preload(self, address: int, length: int) -> None:
        """Load all that a change of a range needs."""
        for window, low, high in self._segments(address, length):
            self._cow.preload(_cow_blocks(window.values[low:high]))

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


def _held(address: int, runs: Iterable[tuple[int, int]], own_end: int) -> Iterator[tuple[int, int]]:
    """Go through runs as they are held: ZERO where nothing else is shown is the own place."""
    for reference, length in runs:
        if reference == ZERO and address + length > own_end:
            zeros = max(0, own_end - address)
            if zeros:
                yield ZERO, zeros
            yield address + zeros, length - zeros
        else:
            assert reference != address or address + length <= own_end
            yield reference, length
        address += length


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
    replaced = before[~same]
    if reference < COW_BASE:
        gained: CowBlocks = None
    elif same.any():
        gained = after[~same] - COW_BASE
    else:
        gained = (reference - COW_BASE, length)
    return _Change(window, low, high, reference, gained, _cow_blocks(replaced))


def _cow_blocks(references: Int64Array) -> CowBlocks:
    """Return the COW blocks among references."""
    return _as_run(references[references >= COW_BASE] - COW_BASE)


def _as_run(blocks: Int64Array) -> CowBlocks:
    """Return sorted consecutive blocks as a run, none as None, others as they are."""
    count = len(blocks)
    if not count:
        return None
    first = int(blocks[0])
    if int(blocks[-1]) - first == count - 1 and (np.diff(blocks) == 1).all():
        return first, count
    return blocks
