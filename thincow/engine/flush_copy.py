"""Copies contents that stand in the way of a flush to the COW store, so that it can go on.

Upstream blocks that other virtual blocks refer to cannot be overwritten (chains, cycles). Their
contents are copied, and whoever refers to them refers to the copy from then on.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from xxhash import xxh3_64_intdigest

from thincow.block_types import COW_BASE
from thincow.engine.flush_selection import FlushSelector
from thincow.engine.flush_steps import FlushTools, Step
from thincow.engine.flush_write import PieceRead
from thincow.engine.free_runs import Run
from thincow.errors import NoSpaceError

_PIECE_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Copies:
    """How many blocks were copied, and which could not be read, and why."""

    blocks: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)


def copy_needed(
    tools: FlushTools, selector: FlushSelector, runs: list[Run], is_over: Callable[[], bool]
) -> Generator[Step, None, Copies]:
    """Copy contents that stand in the way to the COW store.

    Args:
        tools: the parts of the engine.
        selector: knows who shows a block.
        runs: runs of upstream blocks.
        is_over: asked before each piece whether to leave out the rest.
    """
    piece = max(1, _PIECE_BYTES // tools.source.block_size)
    copies = Copies()
    waiting = [
        (begin, min(piece, start + length - begin))
        for start, length in reversed(runs)
        for begin in reversed(range(start, start + length, piece))
    ]
    while waiting and not is_over():
        begin, count = waiting.pop()
        read = PieceRead(begin, count, tools.source)
        yield read
        if read.error is not None:
            if count == 1:
                copies.unreadable[begin] = read.error
            else:
                half = count // 2
                waiting += [(begin + half, count - half), (begin, half)]
            continue
        try:
            copies.blocks += _remap(tools, selector, begin, count, bytes(read.data))
        except NoSpaceError:
            if count > 1 and not copies.blocks:
                # Room for less than a piece: take what there is.
                copies.blocks += _remap_singly(tools, selector, begin, count, bytes(read.data))
            break
    return copies


def _remap_singly(
    tools: FlushTools, selector: FlushSelector, begin: int, count: int, data: bytes
) -> int:
    size = tools.source.block_size
    copied = 0
    for index in range(count):
        try:
            content = data[index * size : (index + 1) * size]
            copied += _remap(tools, selector, begin + index, 1, content)
        except NoSpaceError:
            break
    return copied


def _remap(tools: FlushTools, selector: FlushSelector, begin: int, count: int, data: bytes) -> int:
    """Let all users of upstream blocks refer to a copy of them; return how many were copied."""
    parts, size = tools.parts, tools.source.block_size
    block_map = parts.block_map
    stored = parts.cow.allocate(count)
    done = 0
    try:
        for block, length in stored:
            contents = memoryview(data)[done * size : (done + length) * size]
            parts.cow.file.write(contents, block * size)
            done += length
    except BaseException:
        parts.cow.give_back(stored)
        raise
    place = np.concatenate([np.arange(b, b + n, dtype=np.int64) for b, n in stored])
    with block_map.unwatched():
        for first, length in selector.users(begin, count):
            references = block_map.references(first, length)
            inside = (references >= begin) & (references < begin + count)
            for at in np.flatnonzero(inside).tolist():
                target = COW_BASE + int(place[int(references[at]) - begin])
                if int(references[at]) != first + at:
                    block_map.assign(first + at, [(target, 1)])
    is_used = [parts.cow.count(block) > 0 for block in place.tolist()]
    parts.cow.give_back((int(block), 1) for block in place[np.logical_not(is_used)])
    copied = np.flatnonzero(is_used).tolist()
    values = [xxh3_64_intdigest(data[at * size : (at + 1) * size]) for at in copied]
    parts.hashes.note_copied(values, [COW_BASE + int(place[at]) for at in copied])
    return len(copied)
