"""Typed SQL of the table `checksums`: sums of virtual blocks, in chunks of blocks."""

from typing import Final

import apsw
import numpy as np

from thincow.errors import CorruptStoreError
from thincow.store.bulk import Int64Array, damaged, fetch_row, fetch_rows

CHUNK_BLOCKS: Final = 512
_WIDTHS: Final = (8, 16, 32, 64)
NO_SUM: Final = -1
"""Stands in arrays for a block without a record."""


def load_window(db: apsw.Connection, first_block: int, values: Int64Array) -> None:
    """Overwrite the parts of `values` for which a sum is recorded.

    Sums of 64 bits are kept as signed integers.

    Raises:
        CorruptStoreError: when a row leaves the window or its parts differ in length.
    """
    size = len(values)
    rows = fetch_rows(
        db,
        "SELECT first_block, length, bits, present, sums FROM checksums "
        "WHERE first_block >= ? AND first_block < ?",
        (first_block, first_block + size),
    )
    for row in rows:
        if list(map(type, row)) != [int, int, int, bytes, bytes] or row[2] not in _WIDTHS:
            raise damaged("the table checksums holds what cannot be")
        start, length, bits, present, sums = row
        begin = start - first_block
        if not 0 < length <= size - begin or len(present) != -(-length // 8):
            raise CorruptStoreError(f"checksums of block {start} are damaged: run 'thincow fsck'")
        if len(sums) != length * bits // 8:
            raise CorruptStoreError(f"checksums of block {start} are damaged: run 'thincow fsck'")
        loaded = decode(length, bits, present, sums)
        recorded = loaded != NO_SUM
        values[begin : begin + length][recorded] = loaded[recorded]


def decode(length: int, bits: int, present: bytes, sums: bytes) -> Int64Array:
    """Return one sum a block, NO_SUM where none is recorded; the sizes must be right."""
    recorded = np.unpackbits(
        np.frombuffer(present, np.uint8), count=length, bitorder="little"
    ).astype(bool)
    loaded = np.frombuffer(sums, _stored_type(bits)).astype(np.int64)
    return np.where(recorded, loaded, NO_SUM)


def store_chunk(db: apsw.Connection, first_block: int, values: Int64Array, bits: int) -> None:
    """Replace the record of one chunk of at most CHUNK_BLOCKS blocks; it goes when empty."""
    recorded = values != NO_SUM
    if not recorded.any():
        db.execute("DELETE FROM checksums WHERE first_block = ?", (first_block,))
        return
    present = np.packbits(recorded, bitorder="little").tobytes()
    sums = values.astype(_stored_type(bits)).tobytes()
    db.execute(
        "INSERT OR REPLACE INTO checksums(first_block, length, bits, present, sums) "
        "VALUES (?, ?, ?, ?, ?)",
        (first_block, len(values), bits, present, sums),
    )


def last_before(db: apsw.Connection, first_block: int, end_block: int) -> int | None:
    """Return the first block of the last chunk that begins in a range; None without any."""
    row = fetch_row(
        db,
        "SELECT max(first_block) FROM checksums WHERE first_block >= ? AND first_block < ?",
        (first_block, end_block),
    )
    return None if row is None else row[0]


def clear(db: apsw.Connection) -> None:
    """Forget all sums."""
    db.execute("DELETE FROM checksums")


def _stored_type(bits: int) -> np.dtype[np.unsignedinteger] | np.dtype[np.int64]:
    return np.dtype(f"<u{bits // 8}") if bits < 64 else np.dtype("<i8")  # signed keeps the bits
