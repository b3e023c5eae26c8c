"""Typed SQL of the tables `devices` and `fingerprints`: upstreams as they were last seen."""

from collections.abc import Iterable
from dataclasses import dataclass

import apsw

from thincow.block_types import MAX_DEVICE_ID
from thincow.store.bulk import damaged, fetch_integers, fetch_rows


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One upstream device. `inode` and `mtime_ns` are None for block devices."""

    id: int
    name: str
    size_bytes: int
    type: str
    inode: int | None
    mtime_ns: int | None


def load(db: apsw.Connection) -> list[DeviceRow]:
    """Return all devices ever seen, by id.

    Raises:
        CorruptStoreError: when a row cannot be right.
    """
    rows = fetch_rows(
        db, "SELECT id, name, size_bytes, type, inode, mtime_ns FROM devices ORDER BY id"
    )
    for row in rows:
        _require_sane(*row)
    return [DeviceRow(*row) for row in rows]


def _require_sane(*row: object) -> None:
    match row:
        case (int(number), str(), int(size), "file" | "block", int() | None, int() | None):
            if 1 <= number <= MAX_DEVICE_ID and size >= 0:
                return
    raise damaged("the table devices holds what cannot be")


def store(db: apsw.Connection, rows: Iterable[DeviceRow]) -> None:
    """Insert or replace devices."""
    for row in rows:
        db.execute(
            "INSERT OR REPLACE INTO devices(id, name, size_bytes, type, inode, mtime_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (row.id, row.name, row.size_bytes, row.type, row.inode, row.mtime_ns),
        )


def load_fingerprints(db: apsw.Connection) -> dict[int, int]:
    """Return the sampled contents of upstream: block address -> signed hash."""
    rows = fetch_integers(db, "SELECT block, hash FROM fingerprints ORDER BY block")
    return {row[0]: row[1] for row in rows}


def update_fingerprints(db: apsw.Connection, hashes: dict[int, int]) -> None:
    """Change the hashes of blocks that have a fingerprint; others get none."""
    for block, value in hashes.items():
        db.execute("UPDATE fingerprints SET hash = ? WHERE block = ?", (value, block))


def store_fingerprints(
    db: apsw.Connection, first_block: int, end_block: int, hashes: dict[int, int]
) -> None:
    """Replace the fingerprints of the addresses from `first_block` to before `end_block`."""
    db.execute("DELETE FROM fingerprints WHERE block >= ? AND block < ?", (first_block, end_block))
    for block, value in hashes.items():
        assert first_block <= block < end_block
        db.execute("INSERT INTO fingerprints(block, hash) VALUES (?, ?)", (block, value))
