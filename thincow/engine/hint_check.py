"""Checks the tables beside map and counts: hash entries, checksums, fingerprints.

A hash entry that points to a COW block without references is no error: such hints are left behind
when a block is freed, and whoever follows one compares contents first. They are only counted.
"""

import numpy as np

from thincow.block_types import Kind
from thincow.engine.count_check import StepFunction
from thincow.engine.findings import Code, Findings, describer
from thincow.engine.map_check import MAX_COW_BLOCKS, BoolColumn, Bounds, OverlapCheck
from thincow.store.checksums_table import CHUNK_BLOCKS
from thincow.store.columns import ChecksumColumns, HashColumns, IntColumn
from thincow.store.snapshot import Snapshot


def check_hashes(
    snapshot: Snapshot, bounds: Bounds, counts: StepFunction, expected: int, findings: Findings
) -> None:
    """Check the table `hashes`.

    Args:
        snapshot: of the store.
        bounds: what addresses may be.
        counts: the stored counts of COW blocks.
        expected: the number of entries that the store says it has.
        findings: takes what is wrong.
    """
    entries = stale = 0
    for rows in snapshot.hashes():
        entries += len(rows.hash)
        findings.add_where(
            Code.HASH_TARGET,
            ~_is_target(rows, bounds),
            describer(rows, _hash_place, "has no target of kind {kind}: {target}"),
        )
        targets = rows.target[rows.kind == Kind.COW]
        stale += int(np.count_nonzero(counts.values_at(targets) == 0))
    findings.count("hash_entries", entries)
    findings.count("stale_hash_entries", stale)
    if entries != expected:
        message = f"hash_entries is {expected}, but there are {entries}"
        findings.add(Code.HASH_ENTRIES, "table globals", message)


def check_checksums(snapshot: Snapshot, bounds: Bounds, bits: int, findings: Findings) -> None:
    """Check the form of the rows of the table `checksums`, not the sums.

    Args:
        snapshot: of the store.
        bounds: what addresses may be.
        bits: the width of sums that the store says it keeps.
        findings: takes what is wrong.
    """
    overlap = OverlapCheck()
    findings.count("checksum_rows", 0)
    for chunk in snapshot.checksums():
        findings.count("checksum_rows", len(chunk.first_block))
        # A chunk is as long as its window, and may reach past the end of the device.
        sane = bounds.on_device(chunk.first_block, np.ones_like(chunk.length))
        sane &= (chunk.length >= 1) & (chunk.length <= CHUNK_BLOCKS)
        sane &= chunk.present_bytes == (chunk.length + 7) // 8
        sane &= (chunk.bits == bits) & (bits > 0)
        sane &= chunk.sums_bytes * 8 == chunk.length * chunk.bits
        findings.add_where(
            Code.CHECKSUM_ROW,
            ~sane,
            describer(chunk, bounds.place, "is off the device, or not the sums of {length} blocks"),
        )
        rows = ChecksumColumns(*(column[sane] for column in chunk))
        findings.add_where(
            Code.CHECKSUM_ROW,
            bounds.crosses_window(rows.first_block, rows.length),
            describer(rows, bounds.place, "sums of {length} blocks cross the border of a window"),
        )
        findings.add_where(
            Code.CHECKSUM_ROW,
            overlap.overlaps(rows.first_block, rows.length),
            describer(rows, bounds.place, "begins inside a row before it"),
        )


def check_fingerprints(snapshot: Snapshot, bounds: Bounds, findings: Findings) -> None:
    """Check that the rows of the table `fingerprints` are about blocks of known devices."""
    findings.count("fingerprints", 0)
    for rows in snapshot.fingerprints():
        findings.count("fingerprints", len(rows.block))
        findings.add_where(
            Code.FINGERPRINT_RANGE,
            ~bounds.on_upstream(rows.block, np.ones_like(rows.block)),
            describer(rows, bounds.place, "does not lie on a known device"),
        )


def _is_target(rows: HashColumns, bounds: Bounds) -> BoolColumn:
    one: IntColumn = np.ones_like(rows.target)
    upstream = (rows.kind == Kind.UPSTREAM) & bounds.on_upstream(rows.target, one)
    cow = (rows.kind == Kind.COW) & (rows.target >= 0) & (rows.target < MAX_COW_BLOCKS)
    zero = (rows.kind == Kind.ZERO) & (rows.target == 0)
    good: BoolColumn = upstream | cow | zero
    return good


def _hash_place(value: int) -> str:
    return f"hash {value & (1 << 64) - 1:016x}"
