"""Windows of a table held as arrays, and the epochs of changes to them.

A window is `window_blocks` consecutive values. Its array is never changed once it is shared with
an epoch: the first change in an epoch replaces it by a copy and keeps the old array as the base
that the commit's row changes are computed against. So a frozen epoch can be encoded in another
thread while the next one goes on.

Invariants:
- a window with uncommitted changes, running or frozen, is never dropped;
- `get` never drops anything, so that a caller's windows stay the cached ones until `trim`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from thincow.engine.runs import Int64Array

LoadWindow = Callable[[int, int], Int64Array]
"""First block and length of a window -> its durable values."""

LastRow = Callable[[int, int], int | None]
"""Range of blocks -> where the last row that begins in it does."""


class Window:
    """One window. `cells` is a view of `values` for fast access to single ones."""

    __slots__ = ("base", "cells", "first_block", "frozen", "high", "low", "values")

    def __init__(self, first_block: int, values: Int64Array) -> None:
        """Hold durable values; the window owns the array."""
        self.first_block = first_block
        self.values = values
        self.cells = values.data
        self.base: Int64Array | None = None
        self.low = 0
        self.high = 0
        self.frozen = False


@dataclass(frozen=True, slots=True)
class FrozenWindow:
    """Changes of one window in a frozen epoch: values differ from base only in [low, high)."""

    window: Window
    base: Int64Array
    values: Int64Array
    low: int
    high: int


class WindowCache:
    """Windows by number; a window's number is its first block divided by its size."""

    def __init__(
        self,
        load: LoadWindow,
        window_blocks: int,
        capacity: int,
        last_row: LastRow = lambda _first, _end: None,
    ) -> None:
        """Make an empty cache.

        Args:
            load: gives a window's durable values.
            window_blocks: size of a window, a power of two.
            capacity: how many windows without changes are kept.
            last_row: finds rows, for `used`.
        """
        self._load = load
        self._last_row = last_row
        self._capacity = capacity
        self._windows: OrderedDict[int, Window] = OrderedDict()
        self._dirty: dict[int, Window] = {}
        self._frozen_windows = 0
        self.has_grown = False
        """Whether windows were loaded since the last `trim`, or could not be dropped then."""
        self.window_blocks = window_blocks
        self.shift = window_blocks.bit_length() - 1
        self.mask = window_blocks - 1

    @property
    def dirty_windows(self) -> int:
        """Number of windows changed in the running epoch."""
        return len(self._dirty)

    def dirty(self) -> list[Window]:
        """Return the windows changed in the running epoch."""
        return list(self._dirty.values())

    def get(self, number: int) -> Window:
        """Return a window, loading it when it is not cached."""
        window = self._windows.get(number)
        if window is None:
            first_block = number << self.shift
            window = Window(first_block, self._load(first_block, self.window_blocks))
            self._windows[number] = window
            self.has_grown = True
        else:
            self._windows.move_to_end(number)
        return window

    def preload(self, first: int, length: int) -> None:
        """Load the windows of a range of blocks, so that using them cannot fail until `trim`."""
        for number in range(first >> self.shift, ((first + length - 1) >> self.shift) + 1):
            self.get(number)

    def used(self, first: int, end: int) -> Iterator[int]:
        """Go down through the windows of a range of blocks that may hold anything but defaults."""
        low = first >> self.shift
        changed = sorted(
            number
            for number, window in self._windows.items()
            if (window.base is not None or window.frozen)
            and low <= number
            and number << self.shift < end
        )
        while low << self.shift < end:
            row = self._last_row(low << self.shift, end)
            number = -1 if row is None else row >> self.shift
            while changed and changed[-1] >= number:
                last = changed.pop()
                if last > number:
                    yield last
            if row is None:
                return
            yield number
            end = number << self.shift

    def change(self, window: Window, low: int, high: int) -> None:
        """Announce that positions [low, high) of a window are about to change."""
        if window.base is None:
            window.base = window.values
            window.values = window.values.copy()
            window.cells = window.values.data
            window.low = low
            window.high = high
            self._dirty[window.first_block >> self.shift] = window
        else:
            window.low = min(window.low, low)
            window.high = max(window.high, high)

    def trim(self) -> None:
        """Drop the windows used longest ago, as far as they hold no changes."""
        excess = len(self._windows) - self._capacity - len(self._dirty) - self._frozen_windows
        self.has_grown = len(self._windows) > self._capacity
        if excess <= 0:
            return
        # Some more than needed, so that not every request pays for the search.
        excess += self._capacity // 16
        clean = (
            number
            for number, window in self._windows.items()
            if window.base is None and not window.frozen
        )
        for number in list(islice(clean, excess)):
            del self._windows[number]

    def freeze(self) -> list[FrozenWindow]:
        """End the running epoch and return its changes; later ones belong to the next."""
        frozen = []
        for window in self._dirty.values():
            assert window.base is not None
            assert not window.frozen
            frozen.append(FrozenWindow(window, window.base, window.values, window.low, window.high))
            window.base = None
            window.frozen = True
        self._dirty = {}
        self._frozen_windows += len(frozen)
        return frozen

    def settle(self, frozen: list[FrozenWindow]) -> None:
        """Note that the changes of a frozen epoch are durable."""
        self._frozen_windows -= len(frozen)
        for part in frozen:
            part.window.frozen = False

    def merge_back(self, frozen: list[FrozenWindow]) -> None:
        """Make the changes of a frozen epoch, whose commit failed, part of the running one."""
        self._frozen_windows -= len(frozen)
        for part in frozen:
            window = part.window
            window.frozen = False
            if window.base is None:
                # `values` is still the frozen array; nobody else reads it any more.
                window.low, window.high = part.low, part.high
                self._dirty[window.first_block >> self.shift] = window
            else:
                window.low = min(window.low, part.low)
                window.high = max(window.high, part.high)
            window.base = part.base
