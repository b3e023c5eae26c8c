"""Reference counts of COW blocks: arithmetic on windows of counts. Knows nothing of files."""

from collections.abc import Iterator

import numpy as np

from thincow.engine.free_runs import Run
from thincow.engine.runs import Int64Array, distinct, merge_numbers
from thincow.engine.window_cache import Window, WindowCache
from thincow.errors import CorruptStoreError

CowBlocks = Run | Int64Array | None
"""Block numbers: a run, an array in which a number may repeat, or none."""


class CowCounts:
    """Counts by block number, in a cache of windows."""

    def __init__(self, windows: WindowCache) -> None:
        """Count in these windows."""
        self._windows = windows

    def count(self, block: int) -> int:
        """Return the running reference count of a block."""
        counts = self._windows
        return counts.get(block >> counts.shift).cells[block & counts.mask]

    def live_run(self, block: int, limit: int) -> int:
        """Return how many blocks from `block` on, at most `limit`, are referenced."""
        done = 0
        counts = self._windows
        while done < limit:
            window = counts.get((block + done) >> counts.shift)
            begin = (block + done) & counts.mask
            part = window.values[begin : begin + limit - done]
            dead = np.flatnonzero(part <= 0)
            if len(dead):
                return done + int(dead[0])
            done += len(part)
        return done

    def not_durable(self, block: int, length: int) -> frozenset[int]:
        """Return which of a run of blocks, by index, no durable commit refers to.

        Only while no epoch is frozen.
        """
        found = set()
        for index in range(length):
            window = self._windows.get((block + index) >> self._windows.shift)
            durable = window.values if window.base is None else window.base
            if durable[(block + index) & self._windows.mask] == 0:
                found.add(index)
        return frozenset(found)

    def add(self, blocks: CowBlocks) -> None:
        """Count one reference more for each block (an entry of an array each time it occurs)."""
        if blocks is None:
            return
        for window, low, high, positions in self._by_window(blocks):
            self._windows.change(window, low, high)
            if positions is None:
                window.values[low:high] += 1
            else:
                np.add.at(window.values, positions, 1)

    def drop(self, blocks: CowBlocks) -> tuple[list[Run], list[Run]]:
        """Count one reference less for each entry; return the runs that are without any.

        Returns:
            Runs that only this epoch knew, and runs that a commit may still refer to.

        Raises:
            CorruptStoreError: when the store counted less references than there are.
        """
        if blocks is None:
            return [], []
        fresh: list[Run] = []
        known: list[Run] = []
        for window, low, high, positions in self._by_window(blocks):
            self._windows.change(window, low, high)
            if positions is None:
                window.values[low:high] -= 1
                touched = np.arange(low, high)
            else:
                np.subtract.at(window.values, positions, 1)
                touched = distinct(positions)
            left = window.values[touched]
            if (left < 0).any():
                raise _wrong_counts()
            _sort_freed(window, touched[left == 0], fresh, known)
        return fresh, known

    def move_one(self, added: int | None, dropped: int | None) -> bool | None:
        """Count one reference more for one block and one less for another, each may be None.

        Does what `preload`, `add` and `drop` do, without what many blocks need.

        Returns:
            None when the dropped block has references left, else whether only this epoch knew it.

        Raises:
            CorruptStoreError: as `drop`.
        """
        counts = self._windows
        old = None if dropped is None else counts.get(dropped >> counts.shift)
        low = 0 if dropped is None else dropped & counts.mask
        if old is not None and old.cells[low] < 1:
            raise _wrong_counts()
        if added is not None:
            new, at = counts.get(added >> counts.shift), added & counts.mask
            counts.change(new, at, at + 1)
            new.cells[at] += 1
        if old is None:
            return None
        counts.change(old, low, low + 1)
        old.cells[low] -= 1
        if old.cells[low]:
            return None
        assert old.base is not None
        return old.base.item(low) == 0

    def preload(self, blocks: CowBlocks) -> None:
        """Load the windows of blocks, so that changing their counts cannot fail."""
        if blocks is None:
            return
        if isinstance(blocks, tuple):
            self._windows.preload(*blocks)
            return
        for _ in self._by_window(blocks):
            pass

    def _by_window(
        self, blocks: Run | Int64Array
    ) -> Iterator[tuple[Window, int, int, Int64Array | None]]:
        """Go through blocks by window: it, the range of positions, and the positions if not all."""
        counts = self._windows
        if isinstance(blocks, tuple):
            start, length = blocks
            while length:
                low = start & counts.mask
                part = min(length, counts.window_blocks - low)
                yield counts.get(start >> counts.shift), low, low + part, None
                start += part
                length -= part
            return
        numbers = blocks >> counts.shift
        for number in distinct(numbers).tolist():
            positions = blocks[numbers == number] & counts.mask
            yield counts.get(number), int(positions.min()), int(positions.max()) + 1, positions


def _wrong_counts() -> CorruptStoreError:
    # The wrong count is in no commit yet, and cannot get into one: the table forbids it.
    return CorruptStoreError("counts of references are wrong: unmount and run 'thincow fsck'")


def _sort_freed(window: Window, positions: Int64Array, fresh: list[Run], known: list[Run]) -> None:
    """Add positions whose count became 0 to the runs allocated in this epoch, or to the others."""
    assert window.base is not None
    only_here = window.base[positions] == 0
    fresh += merge_numbers(positions[only_here] + window.first_block)
    known += merge_numbers(positions[~only_here] + window.first_block)
