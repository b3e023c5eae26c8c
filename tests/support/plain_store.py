"""A small store made with plain SQL, for tests that look into stores or break them."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import xxhash

from thincow.store.sql_files import schema_version

ROOT = Path(__file__).resolve().parents[2]
BLOCK_SIZE = 4096
WINDOW_BLOCKS = 4
STORE_ID = "0123456789abcdef" * 2
A = 1 << 40
B = 2 << 40

UPSTREAMS = {"a": bytes(range(256)) * 156, "b": b"upstream" * 2048}
"""Device a has 9.75 blocks, device b has 4."""

GLOBALS = {
    "store_id": STORE_ID,
    "block_size": BLOCK_SIZE,
    "window_blocks": WINDOW_BLOCKS,
    "generation": 7,
    "clean": 1,
    "hash_entries": 4,
    "checksum_bits": 8,
}
EXTENTS = [
    (A, 2, 1, 0),
    (A + 2, 1, 2, 0),
    (A + 3, 1, 1, 1),
    (A + 4, 2, 0, B),
    (B, 1, 1, 4),
]
COW = [(0, 1, 1), (1, 1, 2), (4, 1, 1)]
HASHES = [(-7, 1, 4), (5, 0, B + 1), (9, 1, 3), (11, 2, 0)]
CHECKSUMS = [(A, 4, 8, b"\x0f", bytes(4))]


def connect(data_dir: Path) -> sqlite3.Connection:
    """Open the database for planting something; foreign values are taken as they come."""
    connection = sqlite3.connect(data_dir / "metadata.db", isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    return connection


def plant(data_dir: Path, statements: Iterable[str]) -> None:
    """Run statements on the database of a store."""
    connection = connect(data_dir)
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def make_upstream(directory: Path) -> Path:
    """Write the upstream devices that the store knows."""
    directory.mkdir()
    for name, content in UPSTREAMS.items():
        (directory / name).write_bytes(content)
    return directory


def make_store(data_dir: Path, upstream: Path | None = None) -> Path:
    """Write a store that uses everything a store can hold; unused free space included."""
    data_dir.mkdir()
    connection = connect(data_dir)
    for name in ("tables.sql", "views.sql"):
        connection.executescript((ROOT / "schema" / name).read_text())
    connection.execute(f"PRAGMA application_id = {int.from_bytes(b'thCo')}")
    connection.execute(f"PRAGMA user_version = {schema_version()}")
    connection.executemany("INSERT INTO globals VALUES (?, ?)", GLOBALS.items())
    for number, (name, content) in enumerate(UPSTREAMS.items(), 1):
        status = (upstream / name).stat() if upstream is not None else None
        inode = None if status is None else status.st_ino
        mtime_ns = None if status is None else status.st_mtime_ns
        row = (number, name, len(content), "file", inode, mtime_ns)
        connection.execute(
            "INSERT INTO devices(id, name, size_bytes, type, inode, mtime_ns) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )
    connection.executemany("INSERT INTO extents VALUES (?, ?, ?, ?)", EXTENTS)
    connection.executemany("INSERT INTO cow VALUES (?, ?, ?)", COW)
    connection.executemany("INSERT INTO hashes VALUES (?, ?, ?)", HASHES)
    connection.executemany("INSERT INTO checksums VALUES (?, ?, ?, ?, ?)", CHECKSUMS)
    connection.execute("INSERT INTO fingerprints VALUES (?, ?)", (A + 6, fingerprint("a", 6)))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    (data_dir / "cowdata").write_bytes(bytes(5 * BLOCK_SIZE))
    write_label(data_dir, STORE_ID, 7)
    return data_dir


def write_label(data_dir: Path, store_id: str, generation: int) -> None:
    """Write the label of the data directory."""
    text = f"thincow {store_id}\ngeneration {generation:020d}\n"
    (data_dir / "cowdata.id").write_text(text)


def fingerprint(name: str, block: int) -> int:
    """Return the signed hash of a block of an upstream device."""
    content = UPSTREAMS[name][block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]
    value = xxhash.xxh3_64_intdigest(content.ljust(BLOCK_SIZE, b"\0"))
    return value - (1 << 64) if value >> 63 else value
