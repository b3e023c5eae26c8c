"""Checks contents: reads what the store holds, and compares it with checksums and hash entries.

Memory is bounded: hash entries are looked at some millions at a time, each time in the order of
the places that they lead to. Contents that cannot be had, because upstream was not given or
cannot be read, are only counted.

A block of `cowdata` that was freed and used again may still have the entry of its old content. So
an entry speaks against a block only when no entry speaks for its content.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from thincow.block_types import COW_BASE, Kind
from thincow.engine.checksums import sums_of
from thincow.engine.count_check import StepFunction
from thincow.engine.findings import Code, Findings, Progress, describer
from thincow.engine.map_check import Bounds, cow_place
from thincow.engine.runs import distinct
from thincow.engine.stored_blocks import READ_BYTES, BoolColumn, StoredBlocks, runs
from thincow.errors import CorruptStoreError
from thincow.store.checksums_table import CHUNK_BLOCKS, NO_SUM, decode
from thincow.store.columns import ChecksumRow, HashColumns, IntColumn
from thincow.store.globals_table import ENTRIES_LOST
from thincow.store.snapshot import Snapshot

Advance = Callable[[float], None]
"""Called with the part of the work that is done, from 0 to 1."""

ENTRIES_AT_ONCE: Final = 1 << 22


class _Places(NamedTuple):
    """Block addresses, or numbers of COW blocks."""

    first_block: IntColumn


class _Suspects(NamedTuple):
    """Block addresses, and the COW blocks that they show."""

    first_block: IntColumn
    cow_block: IntColumn


def check_contents(
    snapshot: Snapshot,
    blocks: StoredBlocks,
    bounds: Bounds,
    counts: StepFunction,
    findings: Findings,
    progress: Progress,
) -> None:
    """Check all contents that can be had.

    Args:
        snapshot: of the store.
        blocks: where contents are.
        bounds: what addresses may be.
        counts: the stored counts of COW blocks.
        findings: takes what is wrong, and in `damage` where.
        progress: told about each stage and how far it is.

    Raises:
        CorruptStoreError: when a table cannot be read.
    """
    progress.stage("contents of cowdata")
    _check_cowdata(blocks, bounds, counts, findings, progress.advance)
    progress.stage("contents of hash entries")
    doubtful = _check_hash_entries(snapshot, blocks, bounds, counts, findings, progress.advance)
    _note_doubtful(snapshot, doubtful, bounds, findings)
    progress.stage("contents of blocks with checksums")
    _check_sums(snapshot, blocks, bounds, findings, progress.advance)


def _check_cowdata(
    blocks: StoredBlocks,
    bounds: Bounds,
    counts: StepFunction,
    findings: Findings,
    advance: Advance,
) -> None:
    """Read every block of `cowdata` that is in use."""
    live = _live_runs(counts, bounds)
    total = max(1, sum(length for _, length in live))
    step = max(1, READ_BYTES // bounds.block_size)
    done = 0
    for first, length in live:
        for at in range(0, length, step):
            part = min(step, length - at)
            known = blocks.hashes(COW_BASE + first + at, part).known
            places = _Places(np.arange(first + at, first + at + part))
            findings.add_where(
                Code.COWDATA_UNREADABLE, ~known, describer(places, cow_place, "cannot be read")
            )
            done += part
            advance(done / total)
    findings.count("cow_blocks_read", done)


def _check_hash_entries(
    snapshot: Snapshot,
    blocks: StoredBlocks,
    bounds: Bounds,
    counts: StepFunction,
    findings: Findings,
    advance: Advance,
) -> IntColumn:
    """Compare the contents that hash entries lead to with the hashes.

    Returns:
        The blocks of `cowdata` that are not what the only entries of them say.
    """
    doubtful = [np.empty(0, np.int64)]
    total = max(1, findings.facts.get("hash_entries", 0))
    done = 0
    for entries in _gather(snapshot.hashes()):
        references, wrong = _contradictions(entries, blocks, bounds, counts)
        upstream = wrong & (references < COW_BASE)
        findings.add_where(
            Code.HASH_CONTENT,
            upstream,
            describer(_Places(references), bounds.place, "upstream is not what a hash entry says"),
        )
        findings.damage.entries.append(entries.hash[wrong])
        doubtful.append(references[wrong & ~upstream])
        done += len(entries.hash)
        advance(done / total)
    return _without_confirmed(snapshot, distinct(np.concatenate(doubtful)), blocks) - COW_BASE


def _check_sums(
    snapshot: Snapshot,
    blocks: StoredBlocks,
    bounds: Bounds,
    findings: Findings,
    advance: Advance,
) -> None:
    """Compare the contents of virtual blocks with their checksums."""
    total = max(1, findings.facts.get("checksum_rows", 0))
    reader = _WindowReader(snapshot, bounds.window_blocks)
    verified = skipped = 0
    for done, row in enumerate(snapshot.checksum_rows(), 1):
        advance(min(1.0, done / total))
        if not _is_sane(row):
            continue
        sums = decode(row.length, row.bits, row.present, row.sums)
        places = np.flatnonzero(sums != NO_SUM)
        references = reader.references(row.first_block, row.length)
        if references is None:
            continue  # the check of the map has said so
        references = bounds.contents_of(row.first_block, references)
        found, known = _hash_all(references[places], blocks)
        differ = known & (sums_of(found.view(np.uint64).tolist(), row.bits) != sums[places])
        addresses = row.first_block + places[differ]
        verified += int(np.count_nonzero(known))
        skipped += int(np.count_nonzero(~known))
        findings.add_where(
            Code.CHECKSUM_CONTENT,
            np.ones(len(addresses), np.bool_),
            describer(_Places(addresses), bounds.place, "differs from its checksum"),
        )
        findings.damage.sums.append(addresses)
    findings.count("blocks_verified", verified)
    findings.count("blocks_not_readable", skipped)


def _note_doubtful(
    snapshot: Snapshot, doubtful: IntColumn, bounds: Bounds, findings: Findings
) -> None:
    """Turn doubtful blocks of `cowdata` into findings at the virtual blocks that show them."""
    if not len(doubtful):
        return
    if snapshot.globals().get(ENTRIES_LOST):
        # What would speak for them may be what is missing.
        findings.count("doubtful_blocks", len(doubtful))
        return
    for chunk in snapshot.extents():
        for first, length, kind, target in zip(*(c.tolist() for c in chunk), strict=True):
            low, high = np.searchsorted(doubtful, (target, target + length))
            if kind != Kind.COW or low == high:
                continue
            addresses = first + doubtful[low:high] - target
            findings.damage.contents.append(addresses)
            findings.add_where(
                Code.HASH_CONTENT,
                np.ones(len(addresses), np.bool_),
                describer(
                    _Suspects(addresses, doubtful[low:high]),
                    bounds.place,
                    "COW block {cow_block} is not what its hash entry says",
                ),
            )


@dataclass(slots=True)
class _WindowReader:
    """Looks up references of virtual blocks, keeping the last window."""

    snapshot: Snapshot
    window_blocks: int
    first_block: int = -1
    values: IntColumn | None = field(default=None)

    def references(self, first: int, length: int) -> IntColumn | None:
        """Return references of blocks in one window; None when the window is damaged."""
        window = first - first % self.window_blocks
        if window != self.first_block:
            self.first_block = window
            try:
                self.values = self.snapshot.references(window, self.window_blocks)
            except CorruptStoreError:
                self.values = None
        if self.values is None or first - window + length > self.window_blocks:
            return None
        return self.values[first - window : first - window + length]


def _is_sane(row: ChecksumRow) -> bool:
    return (
        1 <= row.length <= CHUNK_BLOCKS
        and row.bits in (8, 16, 32, 64)
        and len(row.present) == -(-row.length // 8)
        and len(row.sums) * 8 == row.length * row.bits
    )


def _live_runs(counts: StepFunction, bounds: Bounds) -> list[tuple[int, int]]:
    at, by = counts.changes()
    live = np.cumsum(by) > 0
    found = []
    for start, end, is_live in zip(at[:-1].tolist(), at[1:].tolist(), live.tolist(), strict=False):
        end = min(end, bounds.cow_end)
        if is_live and start < end:
            found.append((start, end - start))
    return found


def _gather(chunks: Iterator[HashColumns]) -> Iterator[HashColumns]:
    """Put chunks together until they are worth sorting."""
    parts: list[HashColumns] = []
    size = 0
    for chunk in chunks:
        parts.append(chunk)
        size += len(chunk.hash)
        if size >= ENTRIES_AT_ONCE:
            yield HashColumns(*map(np.concatenate, zip(*parts, strict=True)))
            parts, size = [], 0
    if parts:
        yield HashColumns(*map(np.concatenate, zip(*parts, strict=True)))


def _contradictions(
    entries: HashColumns, blocks: StoredBlocks, bounds: Bounds, counts: StepFunction
) -> tuple[IntColumn, BoolColumn]:
    """Return the reference of each entry, and which lead to other contents than they say."""
    one = np.ones_like(entries.target)
    cow = (entries.kind == Kind.COW) & bounds.in_cowdata(entries.target, one)
    cow &= counts.values_at(entries.target) > 0
    upstream = (entries.kind == Kind.UPSTREAM) & bounds.on_upstream(entries.target, one)
    references = np.where(cow, entries.target + COW_BASE, entries.target)
    wrong = np.zeros(len(references), np.bool_)
    chosen = np.flatnonzero(cow | upstream)
    chosen = chosen[np.argsort(references[chosen], kind="stable")]
    found, known = _hash_all(references[chosen], blocks)
    wrong[chosen] = known & (found != entries.hash[chosen])
    return references, wrong


def _without_confirmed(snapshot: Snapshot, doubtful: IntColumn, blocks: StoredBlocks) -> IntColumn:
    """Leave out the references to contents whose hash has an entry, wherever it leads.

    The entry of a COW block gives way to one that leads upstream, where the content is seen, too.
    """
    if not len(doubtful):
        return doubtful
    found, _ = _hash_all(doubtful, blocks)
    known = [found[np.isin(found, chunk.hash, assume_unique=False)] for chunk in snapshot.hashes()]
    return doubtful[~np.isin(found, np.concatenate([np.empty(0, np.int64), *known]))]


def _hash_all(references: IntColumn, blocks: StoredBlocks) -> tuple[IntColumn, BoolColumn]:
    """Hash the blocks at references, neighbours that are the same only once."""
    distinct = np.flatnonzero(np.diff(references, prepend=-2) != 0)
    values = np.zeros(len(distinct), np.int64)
    known = np.zeros(len(distinct), np.bool_)
    for start, reference, length in runs(references[distinct]):
        hashes = blocks.hashes(reference, length)
        values[start : start + length] = hashes.values
        known[start : start + length] = hashes.known
    repeats = np.diff(distinct, append=len(references))
    return np.repeat(values, repeats), np.repeat(known, repeats)
