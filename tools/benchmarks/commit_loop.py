"""The baseline `commit`: what the disk and SQLite need for the least that a synced write is."""

import itertools
import os
import random
import time
from pathlib import Path

import apsw

_CHUNK = 1 << 20
_BLOCK = 4096


def commits_per_s(directory: Path, file_bytes: int, seconds: float) -> float:
    """Write 4 KiB, sync it, and commit three rows, for some time, in an empty directory."""
    db = apsw.Connection(str(directory / "commits.db"))
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
        db.execute(statement).fetchall()
    db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, value INTEGER) STRICT")
    fd = os.open(directory / "contents", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # Written once: to sync a place that was only allocated costs the filesystem's journal too.
        for start in range(0, file_bytes, _CHUNK):
            os.pwrite(fd, random.randbytes(_CHUNK), start)
        os.fsync(fd)
        _one_commit(db, fd, file_bytes // _BLOCK)
        begin = time.perf_counter()
        for number in itertools.count(1):
            _one_commit(db, fd, file_bytes // _BLOCK)
            took = time.perf_counter() - begin
            if took >= seconds:
                return number / took
        raise AssertionError("never comes here")
    finally:
        os.close(fd)
        db.close()


def _one_commit(db: apsw.Connection, fd: int, blocks: int) -> None:
    block = random.randrange(blocks)
    os.pwrite(fd, random.randbytes(_BLOCK), block * _BLOCK)
    os.fdatasync(fd)
    db.execute("BEGIN IMMEDIATE")
    db.execute(
        "INSERT OR REPLACE INTO rows VALUES (?, 1), (?, 2), (?, 3)",
        (block, block + 100_000, block + 200_000),
    )
    db.execute("COMMIT")
