"""What programs wrote to mapped files is in a flush, or the flush says that it is not."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.flushing import command, state, upstream, write
from tests.support.mounting import Mount

BLOCK = 4096
BLOCKS = 16


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file; nobody syncs it."""
    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, 0) as memory:
            yield memory
    finally:
        os.close(fd)


def test_page_that_was_changed_in_memory_is_flushed(mount: Mount) -> None:
    old = os.urandom(BLOCKS * BLOCK)
    mount.add("disk", old)
    mount.start()
    new = os.urandom(10)
    expected = old[: 5 * BLOCK] + new + old[5 * BLOCK + 10 :]
    with mapped(mount.devs / "disk") as memory:
        memory[5 * BLOCK : 5 * BLOCK + 10] = new
        assert command(mount, "full\n") == 0
        assert upstream(mount) == {"disk": expected}
        memory[:3] = b"abc"
    assert command(mount, "full\n") == 0
    assert upstream(mount) == {"disk": b"abc" + expected[3:]}
    assert state(mount) == "clean"


def start_without_room(mount: Mount) -> bytes:
    """Mount a disk, all of whose room for new contents is taken; return what it holds upstream."""
    old = os.urandom(BLOCKS * BLOCK)
    mount.add("disk", old)
    mount.start("--max-cow-blocks", "1")
    write(mount, "disk", os.urandom(BLOCK))
    return old


def test_changed_page_that_finds_no_space_fails_the_flush(mount: Mount) -> None:
    old = start_without_room(mount)
    with mapped(mount.devs / "disk") as memory:
        memory[5 * BLOCK : 5 * BLOCK + 10] = os.urandom(10)
        assert command(mount, "full\n") == errno.ENOSPC
        message = (
            "error\nnothing was flushed, since what programs wrote cannot be saved first: sync: "
        )
        assert state(mount).startswith(message)
        assert upstream(mount) == {"disk": old}
    assert command(mount, "full\n") == 0
    assert state(mount) == "clean"


def test_page_that_found_no_space_when_its_mapping_went_fails_the_flush_once(mount: Mount) -> None:
    old = start_without_room(mount)
    with mapped(mount.devs / "disk") as memory:
        memory[5 * BLOCK : 5 * BLOCK + 10] = os.urandom(10)
    assert command(mount, "full\n") == errno.ENOSPC
    assert upstream(mount) == {"disk": old}
    assert command(mount, "full\n") == 0
    assert state(mount) == "clean"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -9 $$", "sync was ended by signal 9"),
        ("exit 3", "sync ended with status 3"),
        ("echo sync: disk: Read-only file system >&2; exit 1", "sync: disk: Read-only file system"),
        (None, "cannot run sync: No such file or directory"),
    ],
)
def test_sync_that_fails_before_a_flush_fails_it(
    mount: Mount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    if script is not None:
        (programs / "sync").write_text(f"#!/bin/sh\n{script}\n")
        (programs / "sync").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    old = os.urandom(BLOCKS * BLOCK)
    mount.add("disk", old)
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    with (mount.devs / "disk").open("r+b"):
        check_that_flush_is_refused(mount, script, reason)
    assert upstream(mount) == {"disk": old}
    # Nothing is open that could have been mapped: there is nothing to sync.
    assert command(mount, "full\n") == 0
    assert state(mount) == "clean"


def check_that_flush_is_refused(mount: Mount, script: str | None, reason: str) -> None:
    expected = {None: errno.ENOENT, "exit 3": errno.EIO, "kill -9 $$": errno.EIO}
    assert command(mount, "full\n") == expected.get(script, errno.EROFS)
    assert state(mount) == (
        f"error\nnothing was flushed, since what programs wrote cannot be saved first: {reason}"
    )
