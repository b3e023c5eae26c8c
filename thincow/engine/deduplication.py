"""Finds where the contents of a write exist already. Changes nothing: it makes a plan.

For each block, in this order: the place that follows the one of the block before it (a run), zero,
the place recorded for its hash. A place counts only after the bytes were compared equal. Where a
match begins, the block's own upstream place is tried too when it is known to have been read: to be
clean again is best of all. What was never seen costs lookups, no reads.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from thincow.block_types import COW_BASE, DEVICE_SHIFT, ZERO
from thincow.engine.block_map import BlockMap
from thincow.engine.contents import Contents
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.hash_index import HashIndex
from thincow.engine.seen_blocks import SeenBlocks

NEW: Final = -2
"""Stands in a plan for a block that has to be stored."""

_REPEAT: Final = -3
"""The value -3 - i in a plan stands for the same content as block i of the request."""

_FIRST_COMPARED_BLOCKS: Final = 8
_MAX_EXPECTED: Final = 64
_MAX_LOOK_BACK_BLOCKS: Final = 1024
_LOOK_BACK_STEP_BLOCKS: Final = 64


@dataclass(slots=True)
class Plan:
    """What to do with the blocks of a write, as runs.

    `runs` are (reference, length in blocks), where a reference may also be NEW or a repeat.
    `earlier` are runs just before the write that can share a place now. The counts are for
    statistics, in blocks.
    """

    runs: list[tuple[int, int]] = field(default_factory=list)
    earlier: list[tuple[int, int]] = field(default_factory=list)
    new: int = 0
    by_hash: int = 0
    by_run: int = 0
    zero: int = 0
    retroactive: int = 0

    def add(self, reference: int, length: int) -> None:
        """Append a run of found blocks, or a NEW one."""
        if self.runs:
            last, last_length = self.runs[-1]
            follows = last if last < 0 else last + last_length
            if reference == follows:
                self.runs[-1] = (last, last_length + length)
                return
        self.runs.append((reference, length))

    @staticmethod
    def repeated(reference: int) -> int | None:
        """Return the index of the block that a run repeats; None when it is no repeat."""
        return _REPEAT - reference if reference <= _REPEAT else None


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
        self._map = block_map
        self._contents = contents
        self._hashes = hashes
        self._seen = seen
        self._block_size = block_size
        self._retroactive = retroactive
        self._zero_block = bytes(block_size)
        self._scratch = memoryview(bytearray(max(1 << 20, block_size)))
        self._expected: OrderedDict[int, int] = OrderedDict()

    def plan(self, address: int, data: bytes, hashes: list[int], fetch: Fetch) -> Plan:
        """Plan the write of whole blocks.

        Args:
            address: block address of the first one.
            data: their contents.
            hashes: of each block.
            fetch: contents read before.

        Raises:
            WouldBlock: when the fetch has to run first.
        """
        count = len(hashes)
        plan = Plan()
        expected = self._expected.get(address)
        known: dict[int, int] | None = None
        at = 0
        while at < count:
            if expected is not None:
                length = self._adopt(plan, address, at, expected, data, fetch)
                expected = None
                if length:
                    plan.by_run += length
                    at += length
                    continue
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

    def expect(self, address: int, end: int, reference: int | None) -> None:
        """Remember where a write ended, so that the next one can go on with the run.

        Args:
            address: block address that the write began at.
            end: block address that follows it.
            reference: what follows the place of its last block; None when that was stored anew.
        """
        self._expected.pop(address, None)
        if reference is not None:
            self._expected[end] = reference
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
        self, plan: Plan, address: int, at: int, reference: int, data: bytes, fetch: Fetch
    ) -> int:
        """Plan a run of blocks as those at `reference`, or as their own; return its length."""
        own = address + at
        length = self._match(reference, at, data, fetch)
        if length and reference != own and own in self._seen:
            own_length = self._match(own, at, data, fetch)
            if own_length:
                reference, length = own, own_length
        if length:
            if self._retroactive:
                self._look_back(plan, address, at, reference, data, fetch)
            plan.add(reference, length)
        return length

    def _adopt_zero(
        self, plan: Plan, address: int, at: int, data: bytes, hashes: list[int], fetch: Fetch
    ) -> int:
        own = address + at
        is_known_own = own in self._seen or (
            self._contents.load_if_cached(own, self._scratch[: self._block_size])
            and self._scratch[: self._block_size].tobytes() == self._zero_block
        )
        if is_known_own:
            length = self._match(own, at, data, fetch)
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

    def _match(self, reference: int, at: int, data: bytes, fetch: Fetch) -> int:
        """Return how many blocks from `at` on equal those from `reference` on."""
        size = self._block_size
        limit = self._contents.referable(reference, len(data) // size - at)
        done = 0
        step = _FIRST_COMPARED_BLOCKS
        while done < limit:
            length = min(step, limit - done)
            view = self._load(reference + done, length, fetch)
            equal = _equal_prefix(data, (at + done) * size, view[0], size)
            if view[1]:
                equal = min(equal, *view[1])
            done += equal
            if equal < length:
                break
            step = limit
        return done

    def _load(self, reference: int, length: int, fetch: Fetch) -> tuple[memoryview, frozenset[int]]:
        needed = length * self._block_size
        if needed > len(self._scratch):
            self._scratch = memoryview(bytearray(needed))
        into = self._scratch[:needed]
        bad = self._contents.load(reference, length, into, fetch)
        if bad is None:
            raise WouldBlock(fetch)
        return into, bad

    def _find_repeats(self, plan: Plan, data: bytes, hashes: list[int]) -> None:
        if len(set(hashes)) == len(hashes):
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
                    plan.runs.append((_REPEAT - first, 1))
                    plan.new -= 1
                    plan.by_hash += 1
                else:
                    plan.add(NEW, 1)
            at += length

    def _look_back(
        self, plan: Plan, address: int, at: int, reference: int, data: bytes, fetch: Fetch
    ) -> None:
        """Plan blocks before a match that equal the blocks before the place it matched."""
        size = self._block_size
        if at:
            last, stored = plan.runs[-1]
            if last != NEW:
                return
            equal = 0
            while equal < stored and self._contents.referable(reference - equal - 1, 1):
                content, bad = self._load(reference - equal - 1, 1, fetch)
                if bad or not _equal_prefix(data, (at - equal - 1) * size, content, size):
                    break
                equal += 1
            if not equal:
                return
            plan.runs[-1:] = [(NEW, stored - equal)] if stored > equal else []
            plan.runs.append((reference - equal, equal))
            plan.new -= equal
            plan.retroactive += equal
            if equal < at:
                return
        self._look_back_in_map(plan, address, reference - at, fetch)

    def _look_back_in_map(self, plan: Plan, address: int, reference: int, fetch: Fetch) -> None:
        size = self._block_size
        left = min(_MAX_LOOK_BACK_BLOCKS, address - (address >> DEVICE_SHIFT << DEVICE_SHIFT))
        while left > 0:
            length = min(left, _LOOK_BACK_STEP_BLOCKS)
            references = self._map.references(address - length, length)
            places = np.arange(reference - length, reference, dtype=np.int64)
            candidates = (references >= COW_BASE) & (references != places)
            length = _true_suffix(candidates)
            length = min(length, self._referable_before(reference, length))
            equal = 0
            while equal < length:
                stored = int(self._map.reference(address - equal - 1))
                wanted, bad = self._load(reference - equal - 1, 1, fetch)
                copy = bytes(wanted)
                content, also_bad = self._load(stored, 1, fetch)
                if bad or also_bad or _equal_prefix(copy, 0, content, size) == 0:
                    break
                equal += 1
            if equal:
                plan.earlier.insert(0, (reference - equal, equal))
                plan.retroactive += equal
            if equal < length or length < _LOOK_BACK_STEP_BLOCKS:
                return
            address -= equal
            reference -= equal
            left -= equal

    def _referable_before(self, reference: int, limit: int) -> int:
        done = 0
        while done < limit and self._contents.referable(reference - done - 1, 1):
            done += 1
        return done

    def _block(self, data: bytes, at: int) -> bytes:
        size = self._block_size
        return data if len(data) == size else data[at * size : (at + 1) * size]


def _equal_prefix(data: bytes, offset: int, content: memoryview, block_size: int) -> int:
    """Return how many whole blocks of `content` equal `data` from a byte offset on."""
    length = len(content)
    if length == block_size:
        part = data if len(data) == length else data[offset : offset + length]
        return 1 if part == content.tobytes() else 0
    words = length // 8
    equal = np.frombuffer(data, np.uint64, words, offset) == np.frombuffer(content, np.uint64)
    if equal.all():
        return length // block_size
    return int(equal.argmin()) * 8 // block_size


def _true_suffix(values: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> int:
    """Return the number of true values at the end of an array."""
    false = np.flatnonzero(~values)
    return len(values) - 1 - int(false[-1]) if len(false) else len(values)
