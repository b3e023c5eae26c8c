"""Which upstream blocks have been hashed in this mount, so that none is hashed twice.

One bit a block in arbitrary-size integers, a bounded number of them: forgetting costs another
hash, nothing else.
"""

from collections import OrderedDict

_GROUP_BLOCKS = 4096
_SHIFT = _GROUP_BLOCKS.bit_length() - 1
_FULL = (1 << _GROUP_BLOCKS) - 1
_MAX_GROUPS = 1 << 16


class SeenBlocks:
    """A set of block addresses."""

    def __init__(self) -> None:
        """Make an empty set."""
        self._groups: OrderedDict[int, int] = OrderedDict()

    def __contains__(self, address: int) -> bool:
        """Tell whether a block is in the set."""
        return self._groups.get(address >> _SHIFT, 0) >> (address % _GROUP_BLOCKS) & 1 == 1

    def unseen(self, address: int, length: int) -> list[tuple[int, int]]:
        """Return the runs of a range that are not in the set as (address, length in blocks)."""
        runs: list[tuple[int, int]] = []
        while length > 0:
            low = address % _GROUP_BLOCKS
            part = min(length, _GROUP_BLOCKS - low)
            bits = self._groups.get(address >> _SHIFT, 0)
            mask = ((1 << part) - 1) << low
            if bits & mask != mask:
                self._unseen_bits(address, part, bits >> low, runs)
            address += part
            length -= part
        return runs

    def add(self, address: int, length: int) -> None:
        """Add a range of blocks."""
        while length > 0:
            low = address % _GROUP_BLOCKS
            part = min(length, _GROUP_BLOCKS - low)
            number = address >> _SHIFT
            bits = self._groups.get(number, 0) | ((1 << part) - 1) << low
            # Full groups share one integer.
            self._groups[number] = _FULL if bits == _FULL else bits
            if len(self._groups) > _MAX_GROUPS:
                self._groups.popitem(last=False)
            address += part
            length -= part

    @staticmethod
    def _unseen_bits(address: int, length: int, bits: int, runs: list[tuple[int, int]]) -> None:
        if bits & ((1 << length) - 1) == 0:
            runs.append((address, length))
            return
        start = None
        for index in range(length):
            if bits >> index & 1:
                if start is not None:
                    runs.append((address + start, index - start))
                    start = None
            elif start is None:
                start = index
        if start is not None:
            runs.append((address + start, length - start))
