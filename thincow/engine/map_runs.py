"""Two maps beside each other, as runs: where they refer to different contents.

Works on extents as a snapshot hands them out, chunk by chunk, so memory does not depend on how many
there are. A map that is None stands for the one in which every block is its own upstream block.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from thincow.block_types import COW_BASE, ZERO, Kind
from thincow.engine.runs import distinct
from thincow.errors import CorruptStoreError
from thincow.store.columns import ExtentColumns, IntColumn


class Runs(NamedTuple):
    """Ascending, disjoint runs: first block, block after the last, reference of the first."""

    starts: IntColumn
    ends: IntColumn
    references: IntColumn


class Segments(NamedTuple):
    """Ascending runs of blocks with their first references in two maps."""

    starts: IntColumn
    lengths: IntColumn
    before: IntColumn
    after: IntColumn


class RunStream:
    """The runs of one map in a range of addresses, handed out bit by bit.

    Raises (all methods):
        CorruptStoreError: when extents overlap or are none.
    """

    def __init__(self, chunks: Iterable[ExtentColumns]) -> None:
        self._chunks = iter(chunks)
        self._waiting = _NOTHING
        self._end = 0

    def reach(self) -> int | None:
        """Return up to which address `take` may be asked; None after the last run."""
        while not len(self._waiting.starts):
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._waiting = _as_runs(chunk, self._end)
            self._end = int(self._waiting.ends[-1])
        return self._end

    def take(self, stop: int) -> Runs:
        """Return the runs before an address that `reach` allows; one across it is divided."""
        starts, ends, references = self._waiting
        count = int(np.searchsorted(starts, stop))
        taken = Runs(starts[:count], np.minimum(ends[:count], stop), references[:count])
        if count and ends[count - 1] > stop:
            count -= 1
            starts, references = starts[count:].copy(), references[count:].copy()
            references[0] = _advance(references[:1], stop - starts[:1])[0]
            starts[0] = stop
            self._waiting = Runs(starts, ends[count:], references)
        else:
            self._waiting = Runs(starts[count:], ends[count:], references[count:])
        return taken


def fill_with_zeros(
    chunks: Iterable[ExtentColumns], low: int, high: int
) -> Iterator[ExtentColumns]:
    """Add extents of zeros for the blocks from `low` to before `high` that have none."""
    position = low
    for chunk in chunks:
        ends = chunk.first_block + chunk.length
        begin = np.maximum(np.concatenate(([position], ends[:-1])), low)
        room = np.minimum(chunk.first_block, high) - begin
        some = room > 0
        zeros = _zeros(begin[some], room[some])
        columns = [np.concatenate(pair) for pair in zip(chunk, zeros, strict=True)]
        order = np.argsort(columns[0])
        yield ExtentColumns(*(column[order] for column in columns))
        position = max(position, int(ends[-1]))
    if position < high:
        yield _zeros(np.array([position]), np.array([high - position]))


def _zeros(first: IntColumn, length: IntColumn) -> ExtentColumns:
    return ExtentColumns(first, length, np.full_like(first, Kind.ZERO), np.zeros_like(first))


def walk(before: RunStream | None, after: RunStream) -> Iterator[Segments]:
    """Yield all blocks that either map has an extent for, in ascending order."""
    streams = [after] if before is None else [before, after]
    while True:
        reaches = [reach for stream in streams if (reach := stream.reach()) is not None]
        if not reaches:
            return
        runs = [stream.take(min(reaches)) for stream in streams]
        yield _overlay(_NOTHING if before is None else runs[0], runs[-1])


def _overlay(before: Runs, after: Runs) -> Segments:
    points = distinct(np.concatenate((before.starts, before.ends, after.starts, after.ends)))
    starts, lengths = points[:-1], np.diff(points)
    return Segments(starts, lengths, _at(before, starts), _at(after, starts))


def _at(runs: Runs, addresses: IntColumn) -> IntColumn:
    """Return the references of blocks, identity where no run covers them."""
    if not len(runs.starts):
        return addresses
    place = np.maximum(np.searchsorted(runs.starts, addresses, side="right") - 1, 0)
    inside = (runs.starts[place] <= addresses) & (addresses < runs.ends[place])
    found = _advance(runs.references[place], addresses - runs.starts[place])
    return np.where(inside, found, addresses)


def _advance(references: IntColumn, by: IntColumn) -> IntColumn:
    return np.where(references == ZERO, references, references + by)


def _as_runs(chunk: ExtentColumns, end: int) -> Runs:
    starts, lengths, kind, target = chunk
    ends = starts + lengths
    previous = np.concatenate(([end], ends[:-1]))
    sane = (starts >= previous) & (lengths > 0) & (target >= 0) & (target < COW_BASE - lengths)
    sane &= (kind == Kind.UPSTREAM) | (kind == Kind.COW) | ((kind == Kind.ZERO) & (target == 0))
    if not sane.all():
        raise CorruptStoreError("an extent is damaged: run 'thincow fsck'")
    references = np.where(kind == Kind.COW, target + COW_BASE, target)
    references[kind == Kind.ZERO] = ZERO
    return Runs(starts, ends, references)


_EMPTY = np.empty(0, np.int64)
_NOTHING = Runs(_EMPTY, _EMPTY, _EMPTY)
