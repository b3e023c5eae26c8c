"""What tests of flushing do with a mount."""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from tests.support.mounting import TIMEOUT_S, Mount


def command(mount: Mount, text: str) -> int:
    """Write a command to /flush; return its errno, 0 for success."""
    fd = os.open(mount.point / "flush", os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(fd)
    return 0


def state(mount: Mount) -> str:
    """Return what /flush says."""
    return (mount.point / "flush").read_text().rstrip("\n")


def write(mount: Mount, name: str, data: bytes, offset: int = 0) -> None:
    """Write to a virtual device."""
    fd = os.open(mount.devs / name, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
    finally:
        os.close(fd)


def shown(mount: Mount) -> dict[str, bytes]:
    """Return what the virtual devices show."""
    return {path.name: path.read_bytes() for path in sorted(mount.devs.iterdir())}


def upstream(mount: Mount) -> dict[str, bytes]:
    """Return what is upstream."""
    return {path.name: path.read_bytes() for path in sorted(mount.upstream.iterdir())}


def count_marks(mount: Mount) -> int:
    """Return how many ranges are marked in the store as being written upstream."""
    with closing(sqlite3.connect(mount.database)) as database:
        (count,) = database.execute("SELECT count(*) FROM flushing").fetchone()
    assert isinstance(count, int)
    return count


def wait_for_batch(mount: Mount) -> None:
    """Return when a flush is about to write a batch, or does so."""
    deadline = time.monotonic() + TIMEOUT_S
    while not count_marks(mount):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def drop_caches(*paths: Path) -> None:
    """Drop what the kernel has cached of files."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
