"""Which blocks upstream holds already what a flush would write there.

Looks only at what is in the page cache: reading a disk in order to save a write to it would gain
nothing, and on a failing disk it might take long or do harm. So what is equal may count as
different, never the other way round. Ranges that a cut or failed flush left unproved must not be
compared at all: what the page cache holds of them may never have reached the disk.
"""

from typing import Final

import numpy as np

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.buffers import new_buffer
from thincow.engine.flush_source import Source
from thincow.engine.runs import BoolArray, Int64Array

_PIECE_BYTES: Final = 1 << 20
_EXTENTS_AT_ONCE: Final = 256
"""So many neighbours are passed over together when upstream is in memory for none of them."""


def held_upstream(source: Source, address: int, data: memoryview, scratch: memoryview) -> BoolArray:
    """Tell of each block of some contents whether upstream blocks from `address` on hold it.

    `scratch` has room for as much.
    """
    count = len(data) // source.block_size
    held = scratch[: len(data)]
    try:
        if not source.peek(address, count, held):
            return np.zeros(count, np.bool_)
    except OSError:
        return np.zeros(count, np.bool_)
    left, right = (np.frombuffer(side, np.int64).reshape(count, -1) for side in (held, data))
    # Different blocks mostly differ at once.
    equal: BoolArray = left[:, 0] == right[:, 0]
    alike = np.flatnonzero(equal)
    equal[alike] = (left[alike] == right[alike]).all(axis=1)
    return equal


def count_held_upstream(
    source: Source,
    firsts: Int64Array,
    lengths: Int64Array,
    references: Int64Array,
    unproved: BlockRanges,
) -> int:
    """Return how many blocks of a device's extents need not be written, as far as is in memory."""
    is_proved = unproved.overlap(firsts, lengths) == 0
    columns = firsts[is_proved], lengths[is_proved], references[is_proved]
    equal = 0
    length = max(_PIECE_BYTES, source.block_size)
    buffers = new_buffer(length), new_buffer(length)
    for low in range(0, len(columns[0]), _EXTENTS_AT_ONCE):
        part = [column[low : low + _EXTENTS_AT_ONCE].tolist() for column in columns]
        start, end = part[0][0], part[0][-1] + part[1][-1]
        if not source.has_none(start, end - start):
            for extent in zip(*part, strict=True):
                equal += _count_held(source, extent, *buffers)
    return equal


def _count_held(
    source: Source, extent: tuple[int, int, int], content: memoryview, scratch: memoryview
) -> int:
    first, length, reference = extent
    most = max(1, _PIECE_BYTES // source.block_size)
    step = 0 if reference < 0 else 1
    equal = 0
    for at in range(0, length, most):
        count = min(most, length - at)
        if source.has_none(first + at, count):
            continue
        data = content[: count * source.block_size]
        try:
            is_read = source.peek(reference + step * at, count, data)
        except OSError:
            is_read = False
        if is_read:
            equal += int(np.count_nonzero(held_upstream(source, first + at, data, scratch)))
    return equal
