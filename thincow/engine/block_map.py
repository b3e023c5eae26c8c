"""The map: a reference for each virtual block, and the only place that changes one.

Changes reference counts together with the map, new references before old ones are released.
"""

from collections.abc import Iterator

import numpy as np

from thincow.block_types import COW_BASE
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

    def assign(self, address: int, references: Int64Array) -> None:
        """Give consecutive blocks new references.

        Counts of the COW blocks involved follow. Nothing has changed when this raises (a window
        that cannot be loaded).
        """
        segments = []
        done = 0
        for window, low, high in self._segments(address, len(references)):
            new = references[done : done + high - low]
            done += high - low
            changed = np.flatnonzero(window.values[low:high] != new)
            if not len(changed):
                continue
            old_values, new_values = window.values[low:high][changed], new[changed]
            added = new_values[new_values >= COW_BASE] - COW_BASE
            dropped = old_values[old_values >= COW_BASE] - COW_BASE
            self._cow.preload(added)
            self._cow.preload(dropped)
            segments.append((window, low, new, changed, added, dropped))
        # All new references first: a block may leave one window and enter another.
        for _, _, _, _, added, _ in segments:
            self._cow.add_references(added)
        for window, low, new, changed, _, _ in segments:
            self._windows.change(window, low + int(changed[0]), low + int(changed[-1]) + 1)
            window.values[low : low + len(new)] = new
        for _, _, _, _, _, dropped in segments:
            self._cow.drop_references(dropped)

    def freeze(self) -> list[FrozenWindow]:
        """End the epoch and return its changes."""
        return self._windows.freeze()

    def _segments(self, address: int, length: int) -> Iterator[tuple[Window, int, int]]:
        windows = self._windows
        while length > 0:
            low = address & windows.mask
            high = min(low + length, windows.window_blocks)
            yield windows.get(address >> windows.shift), low, high
            address += high - low
            length -= high - low
