"""Finds where the contents of a write exist already. Changes nothing: it makes a plan.

For each block, in this order: the place that follows the one of the block before it (a run), zero,
the place recorded for its hash. A place counts only after the bytes were compared equal. Where a
match upstream begins, the block's own place is tried too when it is known to have been read: to be
clean again is best of all. What was never seen costs lookups, no reads.
"""

from collections import OrderedDict
from typing import Final

import numpy as np

from thincow.block_types import COW_BASE, ZERO
from thincow.engine.block_map import BlockMap
from thincow.engine.buffers import hash_blocks
from thincow.engine.comparison import FIRST_BLOCKS, Comparison
from thincow.engine.contents import Contents
from thincow.engine.fetch import Fetch
from thincow.engine.free_runs import Run
from thincow.engine.hash_filter import signed
from thincow.engine.hash_index import HashIndex
from thincow.engine.look_back import LookBack
from thincow.engine.seen_blocks import SeenBlocks
from thincow.engine.write_plan import NEW, REPEAT, Plan

_MAX_EXPECTED: Final = 64


class Deduplication:
    """Plans writes."""

    def __init__(
        self,
        block_map: BlockMap,
        contents: Contents,
        hashes: HashIndex,
        seen: SeenBlocks,
        block_size: int,
        *,
        retroactive: bool,
    ) -> None:
        """Look for contents through `hashes`, compare through `contents`."""
        self._comparison = Comparison(contents, block_size)
        self._look_back = LookBack(block_map, self._comparison) if retroactive else None
        self._hashes = hashes
        self._seen = seen
        self._block_size = block_size
        self._zero_block = bytes(block_size)
        self._expected: OrderedDict[int, Run] = OrderedDict()
        """Where a write ended -> what follows its last run, and how much to compare first."""

    def plan(self, address: int, data: bytes, fetch: Fetch) -> Plan:
        """Plan the write of whole blocks.

        Args:
            address: block address of the first one.
            data: their contents.
            fetch: contents read before.

        Raises:
            WouldBlock: when the fetch has to run first.
        """
        count = len(data) // self._block_size
        plan = Plan()
        at = 0
        expected = self._expected.get(address)
        if expected is not None:
            reference, first = expected
            at = plan.by_run = self._adopt(plan, address, 0, reference, data, fetch, first)
            if at == count:
                return plan
        hashes = plan.hashes = hash_blocks(data, self._block_size)
        known: dict[int, int] | None = None
        while at < count:
            value = hashes[at]
            if value == self._hashes.zero_hash and self._block(data, at) == self._zero_block:
                at += self._adopt_zero(plan, address, at, data, hashes, fetch)
                continue
            found = known.get(value) if known is not None else self._hashes.lookup(value)
            if found is not None:
                length = self._adopt(plan, address, at, found, data, fetch)
                if length:
                    plan.by_hash += 1
                    plan.by_run += length - 1
                    at += length
                    continue
                self._hashes.note_stale(value)
            elif known is None and at + 1 < count:
                known = self._hashes.lookup_many(hashes[at + 1 :])
                if not known:
                    at = self._skip_unknown(plan, at, hashes)
                    continue
            plan.add(NEW, 1)
            plan.new += 1
            at += 1
        if plan.new > 1:
            self._find_repeats(plan, data, hashes)
        return plan

    def leads_nowhere(self, address: int, value: int) -> bool:
        """Tell whether a single block with this hash is new for sure, with nothing to compare."""
        hashes = self._hashes
        return (
            value != hashes.zero_hash
            and address not in self._expected
            and hashes.lookup(value) is None
        )

    def expect(self, address: int, end: int, last: Run) -> None:
        """Remember where a write ended, so that the next one can go on with the run.

        Args:
            address: block address that the write began at.
            end: block address that follows it.
            last: its last run, as planned.
        """
        self._expected.pop(address, None)
        reference, length = last
        if reference >= 0:
            self._expected[end] = reference + length, max(length, FIRST_BLOCKS)
            if len(self._expected) > _MAX_EXPECTED:
                self._expected.popitem(last=False)

    def _skip_unknown(self, plan: Plan, at: int, hashes: list[int]) -> int:
        """Plan blocks from `at` on, none of which has an entry, as new; stop at zeros."""
        try:
            end = hashes.index(self._hashes.zero_hash, at + 1)
        except ValueError:
            end = len(hashes)
        plan.add(NEW, end - at)
        plan.new += end - at
        return end

    def _adopt(
        self,
        plan: Plan,
        address: int,
        at: int,
        reference: int,
        data: bytes,
        fetch: Fetch,
        first: int = FIRST_BLOCKS,
    ) -> int:
        """Plan a run of blocks as those at `reference`, or as their own; return its length."""
        own = address + at
        length = self._comparison.match(reference, data, at, fetch, first=first)
        # What was seen upstream mostly has its entry there: only then the own place is likely.
        if length and reference < COW_BASE and reference != own and own in self._seen:
            own_length = self._comparison.match(own, data, at, fetch)
            if own_length:
                reference, length = own, own_length
        if length:
            if self._look_back is not None:
                self._look_back.extend(plan, address, at, reference, data, fetch)
            plan.add(reference, length)
        return length

    def _adopt_zero(
        self, plan: Plan, address: int, at: int, data: bytes, hashes: list[int], fetch: Fetch
    ) -> int:
        own = address + at
        if own in self._seen or self._comparison.is_cached_zero(own):
            length = self._comparison.match(own, data, at, fetch)
            if length:
                plan.add(own, length)
                plan.by_run += length
                return length
        end = at + 1
        while (
            end < len(hashes)
            and hashes[end] == hashes[at]
            and end + address not in self._seen
            and self._block(data, end) == self._zero_block
        ):
            end += 1
        plan.add(ZERO, end - at)
        plan.zero += end - at
        return end - at

    def _find_repeats(self, plan: Plan, data: bytes, hashes: list[int]) -> None:
        ascending = np.sort(signed(hashes))
        if (ascending[1:] != ascending[:-1]).all():
            return
        runs, plan.runs = plan.runs, []
        first_of: dict[int, int] = {}
        at = 0
        for reference, length in runs:
            if reference != NEW:
                plan.runs.append((reference, length))
                at += length
                continue
            for index in range(at, at + length):
                first = first_of.setdefault(hashes[index], index)
                if first != index and self._block(data, first) == self._block(data, index):
                    plan.runs.append((REPEAT - first, 1))
                    plan.new -= 1
                    plan.by_hash += 1
                else:
                    plan.add(NEW, 1)
            at += length

    def _block(self, data: bytes, at: int) -> bytes:
        size = self._block_size
        return data if len(data) == size else data[at * size : (at + 1) * size]
