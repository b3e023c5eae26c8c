"""Checks the table `flushing`, and that nothing shows the blocks in it.

A flush marks upstream blocks before it writes them, and what they hold is unknown until the mark is
gone. So no block may refer to a marked one, and the virtual block there must be mapped elsewhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from thincow.block_types import Kind
from thincow.engine.count_check import StepFunction, WrongRuns, compare
from thincow.engine.findings import Code, Findings, describer
from thincow.engine.map_check import Bounds, OverlapCheck
from thincow.engine.row_repair import Ranges
from thincow.store.columns import ExtentColumns, FlushingColumns, IntColumn
from thincow.store.snapshot import Snapshot

_SOME = 2
"""Any number that is not the value of a mark."""


@dataclass(slots=True)
class Shown:
    """Marked blocks that are shown, and the virtual blocks that show them."""

    marked: Ranges
    viewers: Ranges


def check_flushing(snapshot: Snapshot, bounds: Bounds, findings: Findings) -> None:
    """Check the rows of the table `flushing`, and that no block shows what is in them."""
    overlap = OverlapCheck()
    marks = Ranges()
    findings.count("flushing_ranges", 0)
    for chunk in snapshot.flushing():
        findings.count("flushing_ranges", len(chunk.first_block))
        inside = bounds.on_upstream(chunk.first_block, chunk.length)
        findings.add_where(
            Code.FLUSHING_RANGE,
            ~inside,
            describer(chunk, bounds.place, "{length} blocks do not lie on a known device"),
        )
        rows = FlushingColumns(*(column[inside] for column in chunk))
        findings.add_where(
            Code.FLUSHING_RANGE,
            overlap.overlaps(rows.first_block, rows.length),
            describer(rows, bounds.place, "begins inside a range before it"),
        )
        marks.add(*rows)
    first, end = find_shown(marks, bounds, lambda: _sane_extents(snapshot, bounds)).viewers.merged()
    findings.add_where(
        Code.FLUSHING_SHOWN,
        np.ones(len(first), np.bool_),
        describer(
            FlushingColumns(first, end - first),
            bounds.place,
            "{length} blocks show upstream blocks that a flush was writing",
        ),
    )


def find_shown(
    marks: Ranges, bounds: Bounds, extents: Callable[[], Iterable[ExtentColumns]]
) -> Shown:
    """Find marked blocks that are shown.

    Args:
        marks: upstream blocks.
        bounds: what addresses may be.
        extents: gives the map from its beginning, twice at most; all of it in range.
    """
    shown = Shown(Ranges(), Ranges())
    first, end = marks.merged()
    if not len(first):
        return shown
    marked, covered, referred = StepFunction(), StepFunction(), StepFunction()
    marked.add(first, end - first, np.ones_like(first))
    hidden, length = bounds.hidden()
    covered.add(hidden, length, np.full_like(length, _SOME))
    for rows in extents():
        covered.add(rows.first_block, rows.length, np.full_like(rows.length, _SOME))
        upstream = rows.kind == Kind.UPSTREAM
        length = rows.length[upstream]
        referred.add(rows.target[upstream], length, np.full_like(length, _SOME))
    own = _where(compare(marked, covered), is_found=False)
    others = _where(compare(marked, referred), is_found=True)
    for runs in (own, others):
        shown.marked.add(*runs)
    shown.viewers.add(*own)
    if len(others[0]):
        for rows in extents():
            _add_viewers(rows, *others, shown.viewers)
    return shown


def _sane_extents(snapshot: Snapshot, bounds: Bounds) -> Iterable[ExtentColumns]:
    """Go through the extents that the check of the map has nothing against."""
    for chunk in snapshot.extents():
        sane = bounds.on_device(chunk.first_block, chunk.length)
        sane &= (chunk.kind != Kind.UPSTREAM) | bounds.on_upstream(chunk.target, chunk.length)
        yield ExtentColumns(*(column[sane] for column in chunk))


def _where(runs: WrongRuns, *, is_found: bool) -> tuple[IntColumn, IntColumn]:
    """Return the marked runs that something was, or was not, found for."""
    chosen = (runs.stored > 0) & ((runs.found > 0) == is_found)
    return runs.first_block[chosen], runs.length[chosen]


def _add_viewers(rows: ExtentColumns, first: IntColumn, length: IntColumn, viewers: Ranges) -> None:
    """Add the virtual blocks of extents that refer into ascending runs of upstream blocks."""
    end = first + length
    low = np.searchsorted(end, rows.target, side="right")
    high = np.searchsorted(first, rows.target + rows.length)
    for row in np.flatnonzero((rows.kind == Kind.UPSTREAM) & (low < high)).tolist():
        shift = rows.first_block[row] - rows.target[row]
        inside = slice(low[row], high[row])
        begin = np.maximum(first[inside], rows.target[row])
        stop = np.minimum(end[inside], rows.target[row] + rows.length[row])
        viewers.add(begin + shift, stop - begin)
