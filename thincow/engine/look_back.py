"""Retroactive deduplication: blocks before a match that equal the blocks before its place.

They were stored, or are about to be, because nothing led to the place before. Changes nothing: it
extends the plan of a write.
"""

from typing import Final

from thincow.block_types import COW_BASE, DEVICE_SHIFT
from thincow.engine.block_map import BlockMap
from thincow.engine.comparison import Comparison
from thincow.engine.fetch import Fetch
from thincow.engine.write_plan import NEW, Plan

_MAX_BLOCKS: Final = 1024


class LookBack:
    """Looks back from matches."""

    def __init__(self, block_map: BlockMap, comparison: Comparison) -> None:
        """Look at what blocks refer to now through the map."""
        self._map = block_map
        self._comparison = comparison

    def extend(
        self, plan: Plan, address: int, at: int, reference: int, data: bytes, fetch: Fetch
    ) -> None:
        """Plan blocks before a match.

        Args:
            plan: of the blocks before block `at` of the write.
            address: block address that the write begins at.
            at: index of the block that was found.
            reference: where it was found.
            data: contents of the write.
            fetch: contents read before.

        Raises:
            WouldBlock: when the fetch has to run first.
        """
        if at:
            last, stored = plan.runs[-1]
            if last != NEW:
                return
            equal = 0
            while equal < stored and self._comparison.match(
                reference - equal - 1, data, at - equal - 1, fetch, limit=1
            ):
                equal += 1
            if not equal:
                return
            plan.runs[-1:] = [(NEW, stored - equal)] if stored > equal else []
            plan.runs.append((reference - equal, equal))
            plan.new -= equal
            plan.retroactive += equal
            if equal < at:
                return
        self._extend_before(plan, address, reference - at, fetch)

    def _extend_before(self, plan: Plan, address: int, reference: int, fetch: Fetch) -> None:
        """Plan blocks before the write, which begins at `address` and is found at `reference`."""
        limit = min(_MAX_BLOCKS, address - (address >> DEVICE_SHIFT << DEVICE_SHIFT))
        equal = 0
        while equal < limit:
            stored = self._map.reference(address - equal - 1)
            place = reference - equal - 1
            if stored < COW_BASE or stored == place:
                break
            if not self._comparison.equal(place, stored, fetch):
                break
            equal += 1
        if equal:
            plan.earlier = [(reference - equal, equal)]
            plan.retroactive += equal
