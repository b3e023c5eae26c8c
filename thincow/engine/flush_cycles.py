"""Finds cycles among moved blocks: a belongs where b's content is, and b where a's is.

A block whose content is at the place of another block has to be flushed before that one. Each
block has at most one such place, so what must come before what is a function, and blocks on its
cycles are those that a flush cannot begin with unless it copies one of them first.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.runs import Int64Array

_ROUNDS: Final = 64
"""How often ends of chains are cut off before blocks are looked at one by one."""

_MAX_BLOCKS: Final = 4 << 20
"""More blocks than this are not looked at one by one, which bounds memory to some 100 MiB."""


@dataclass(frozen=True, slots=True)
class Cycles:
    """How many there are, and how many blocks are on them."""

    number: int
    blocks: int


def find_cycles(
    starts: Int64Array, lengths: Int64Array, targets: Int64Array, max_blocks: int = _MAX_BLOCKS
) -> Cycles | None:
    """Count the cycles of moved blocks; None when they are too many and too mixed to be counted.

    Works on runs first: it leaves out blocks that no other block has to wait for, or that wait for
    none, and then takes as one unit what is moved in common multiples (whole files or devices
    that change places are few units, however large they are).

    Args:
        starts: first addresses of runs of moved blocks, disjoint.
        lengths: their lengths in blocks.
        targets: upstream addresses of the contents of their first blocks.
        max_blocks: of how many units cycles are looked for.
    """
    moved = starts != targets
    runs = starts[moved], lengths[moved], targets[moved]
    for _ in range(_ROUNDS):
        before = int(runs[1].sum())
        runs = _without_ends(*runs)
        after = int(runs[1].sum())
        if after == before or after <= max_blocks:
            break
    starts, lengths, targets = runs
    if not len(starts):
        return Cycles(0, 0)
    unit = int(np.gcd.reduce(np.concatenate((starts, lengths, targets))))
    if int(lengths.sum()) // unit > max_blocks:
        return None
    found = _count(starts // unit, lengths // unit, targets // unit)
    return Cycles(found.number * unit, found.blocks * unit)


def _without_ends(
    starts: Int64Array, lengths: Int64Array, targets: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Keep what has its content at a place of the runs, and is such a place itself."""
    places, lengths, origin = BlockRanges.union(starts, lengths).cut(targets, lengths)
    starts, targets = starts[origin] + places - targets[origin], places
    kept, lengths, origin = BlockRanges.union(targets, lengths).cut(starts, lengths)
    return kept, lengths, targets[origin] + kept - starts[origin]


def _count(starts: Int64Array, lengths: Int64Array, targets: Int64Array) -> Cycles:
    """Count cycles block by block.

    After as many steps as there are blocks, every walk has ended or is on a cycle; doubling the
    step takes only the logarithm of that. Then each cycle is told by its lowest block.
    """
    order = np.argsort(starts)
    starts, lengths, targets = starts[order], lengths[order], targets[order]
    blocks = _expand(starts, lengths)
    following = np.minimum(
        np.searchsorted(blocks, wanted := _expand(targets, lengths)), len(blocks)
    )
    end = len(blocks)  # stands for: nowhere
    known = np.append(blocks, -1)
    step = np.append(np.where(known[following] == wanted, following, end), end).astype(np.int32)
    rounds = end.bit_length()
    walk = step
    for _ in range(rounds):
        walk = walk[walk]
    on_cycle = np.zeros(end + 1, np.bool_)
    on_cycle[walk] = True
    on_cycle[end] = False
    own = np.arange(end + 1, dtype=np.int32)
    lowest = own.copy()
    for _ in range(rounds):
        np.minimum(lowest, lowest[step], out=lowest)
        step = step[step]
    return Cycles(int((on_cycle & (lowest == own)).sum()), int(on_cycle.sum()))


def _expand(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """Return all numbers in ranges."""
    offsets = np.cumsum(lengths) - lengths
    numbers: Int64Array = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
    return numbers
