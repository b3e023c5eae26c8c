"""What tests of flushing do with a mount."""

import os
import sqlite3
import time
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from tests.support.mounting import TIMEOUT_S, Mount, run_thincow


class Way(StrEnum):
    """How a store is flushed."""

    MOUNTED = "mounted"
    OFFLINE = "offline"


def flush(
    mount: Mount, way: Way, *, blocks: int | None = None, options: tuple[str, ...] = ()
) -> str:
    """Flush a store that is mounted, unmounting it for that if need be.

    Args:
        mount: it is mounted afterwards, too.
        way: how.
        blocks: how many at most; None for all.
        options: to mount it with again.

    Returns:
        What went wrong; empty when nothing did.
    """
    if way is Way.MOUNTED:
        failed = command(mount, f"{blocks or 'full'}\n")
        return state(mount).removeprefix("error\n") if failed else ""
    mount.umount()
    limit = () if blocks is None else ("--blocks", str(blocks))
    done = run_thincow("flush", *offline_arguments(mount), *limit)
    mount.start(*options)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr.removeprefix("thincow: flush: ")


def offline_arguments(mount: Mount) -> list[str | Path]:
    """Return the arguments of `thincow flush` for a store that is not mounted."""
    return ["--offline", "--data-dir", mount.data, "--upstream", mount.upstream]


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
