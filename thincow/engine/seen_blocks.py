"""Which upstream blocks have been hashed in this mount, so that none is hashed twice.

One bit a block, in a bounded number of groups: forgetting costs another hash, nothing else.
"""

from collections import OrderedDict

_GROUP_BLOCKS = 4096
_SHIFT = _GROUP_BLOCKS.bit_length() - 1
_FULL_BYTE = 0xFF
_FULL = bytearray([_FULL_BYTE] * (_GROUP_BLOCKS // 8))
"""All full groups are this one, which is never changed."""
_MAX_GROUPS = 1 << 16


class SeenBlocks:
    """A set of block addresses."""

    def __init__(self) -> None:
        """Make an empty set."""
        self._groups: OrderedDict[int, bytearray] = OrderedDict()

    def __contains__(self, address: int) -> bool:
        """Tell whether a block is in the set."""
        bits = self._groups.get(address >> _SHIFT)
        return bits is not None and bits[address % _GROUP_BLOCKS >> 3] >> (address & 7) & 1 == 1

    def unseen(self, address: int, length: int) -> list[tuple[int, int]]:
        """Return the runs of a range that are not in the set as (address, length in blocks)."""
        runs: list[tuple[int, int]] = []
        while length > 0:
            low = address % _GROUP_BLOCKS
            part = min(length, _GROUP_BLOCKS - low)
            bits = int.from_bytes(self._groups.get(address >> _SHIFT, b""), "little")
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
            group = self._group(address)
            bits = int.from_bytes(group, "little") | ((1 << part) - 1) << low
            if group is not _FULL:
                group[:] = bits.to_bytes(len(group), "little")
                self._share(address, group)
            address += part
            length -= part

    def add_one(self, address: int) -> None:
        """Add one block."""
        group = self._group(address)
        if group is not _FULL:
            at = address % _GROUP_BLOCKS >> 3
            group[at] |= 1 << (address & 7)
            if group[at] == _FULL_BYTE:
                self._share(address, group)

    def _group(self, address: int) -> bytearray:
        """Return the bits of a group, to be changed unless it is the full one."""
        group = self._groups.get(address >> _SHIFT)
        if group is None:
            group = self._groups[address >> _SHIFT] = bytearray(len(_FULL))
            if len(self._groups) > _MAX_GROUPS:
                self._groups.popitem(last=False)
        return group

    def _share(self, address: int, group: bytearray) -> None:
        if group == _FULL:
            self._groups[address >> _SHIFT] = _FULL

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
