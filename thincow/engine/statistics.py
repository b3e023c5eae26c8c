"""Counters of one mount. Plain numbers, changed by their owners, read by reports."""

from dataclasses import dataclass


@dataclass(slots=True)
class DeviceStatistics:
    """What happened on one device; reads and writes are counted in requests, errors in blocks."""

    upstream_reads: int = 0
    upstream_read_errors: int = 0
    flush_writes: int = 0
    flush_equal: int = 0
    flush_errors: int = 0
    fuse_reads: int = 0
    fuse_writes: int = 0


@dataclass(slots=True)
class Statistics:
    """What happened to written blocks, in blocks."""

    blocks_written: int = 0
    blocks_zero: int = 0
    blocks_dedup_hash: int = 0
    blocks_dedup_run: int = 0
    blocks_dedup_retroactive: int = 0
    blocks_new: int = 0
    checksum_errors: int = 0
    commits: int = 0
