"""The shapes in which a snapshot hands out what the tables hold: columns of rows, and sums."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntColumn = NDArray[np.int64]
SQLValue = None | int | float | str | bytes


class ExtentColumns(NamedTuple):
    """Rows of `extents`, by ascending `first_block`."""

    first_block: IntColumn
    length: IntColumn
    kind: IntColumn
    target: IntColumn


class CowColumns(NamedTuple):
    """Rows of `cow`, by ascending `first_block`."""

    first_block: IntColumn
    length: IntColumn
    refs: IntColumn


class HashColumns(NamedTuple):
    """Rows of `hashes`, by ascending (signed) `hash`."""

    hash: IntColumn
    kind: IntColumn
    target: IntColumn


class ChecksumColumns(NamedTuple):
    """Rows of `checksums`, by ascending `first_block`; the blobs' sizes instead of the blobs."""

    first_block: IntColumn
    length: IntColumn
    bits: IntColumn
    present_bytes: IntColumn
    sums_bytes: IntColumn


class FlushingColumns(NamedTuple):
    """Rows of `flushing`, by ascending `first_block`."""

    first_block: IntColumn
    length: IntColumn


class ChecksumRow(NamedTuple):
    """One row of `checksums`, the sums included."""

    first_block: int
    length: int
    bits: int
    present: bytes
    sums: bytes


class FingerprintColumns(NamedTuple):
    """Rows of `fingerprints`, by ascending `block`."""

    block: IntColumn
    hash: IntColumn


@dataclass(frozen=True, slots=True)
class MapUse:
    """What the extents of one device say, in blocks.

    `original` show their own place; `zero` are those that an extent says to be zero.
    """

    extents: int
    original: int
    remapped: int
    cow: int
    zero: int


@dataclass(frozen=True, slots=True)
class CowUse:
    """What the counts say, in blocks: used blocks, their references, the end of the last one."""

    live: int
    references: int
    end: int
