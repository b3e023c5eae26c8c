"""Databases, disk images and filesystems on overlays: the same outcome as on a plain copy."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.mounting import CHECKOUT, shell
from tests.support.overlays import Overlay

MIB = 1 << 20
ROWS = 4000
WRITTEN_KIB = range(0x178, 0x180)
"""Where superblocks tell how much was written."""


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    made = Overlay(tmp_path / "files")
    yield made
    made.close()


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_database(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA page_size = 4096")
        db.execute("CREATE TABLE log(id INTEGER PRIMARY KEY, text BLOB)")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO log(text) VALUES (?)", ((os.urandom(2000),) for _ in range(ROWS))
        )
        db.execute("COMMIT")


def contents(path: Path) -> list[tuple[int, bytes]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute("SELECT id, text FROM log ORDER BY id").fetchall()


@pytest.mark.parametrize("mode", ["DELETE", "TRUNCATE", "WAL"])
def test_database_is_changed_and_shrunk(overlay: Overlay, mode: str) -> None:
    make_database(overlay.original)
    before = checksum(overlay.original)
    size = overlay.original.stat().st_size
    overlay.start()
    with closing(sqlite3.connect(overlay.virtual, isolation_level=None)) as db:
        assert db.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0].upper() == mode
        db.execute("DELETE FROM log WHERE id % 4 <> 0")
        db.execute("BEGIN")
        db.execute("UPDATE log SET text = zeroblob(5000) WHERE id % 8 = 0")
        db.execute("ROLLBACK")
    overlay.restart()
    with closing(sqlite3.connect(overlay.virtual, isolation_level=None)) as db:
        db.execute("VACUUM")
        db.execute("INSERT INTO log(id, text) VALUES (1, 'new')")
    assert overlay.virtual.stat().st_size < size // 2
    expected = contents(overlay.virtual)
    assert len(expected) == ROWS // 4 + 1
    overlay.kill()
    overlay.start()
    assert contents(overlay.virtual) == expected
    assert checksum(overlay.original) == before
    size = overlay.virtual.stat().st_size
    done = overlay.commit()
    assert done.returncode == 0, done.stderr
    assert overlay.original.stat().st_size == size
    assert contents(overlay.original) == expected


def differing(left: bytes, right: bytes) -> list[int]:
    """Return where images of filesystems with blocks of 1024 bytes differ.

    Not in how much was ever written to them, which superblocks tell: the tools need other system
    calls where files cannot be punched.
    """
    assert len(left) == len(right)
    return [
        at + index
        for at in range(0, len(left), 1024)
        if left[at : at + 1024] != right[at : at + 1024]
        for index in range(1024)
        if left[at + index] != right[at + index] and index not in WRITTEN_KIB
    ]


def change_both(plain: Path, virtual: Path, command: Sequence[str], size_mib: int | None) -> None:
    """Do the same with two files, in the same second: the tools write down what time it is."""
    before = plain.read_bytes()
    for _ in range(10):
        for path in (plain, virtual):
            if size_mib is not None:
                os.truncate(path, size_mib * MIB)
            subprocess.run([*command, path], check=False, capture_output=True)
        if not differing(plain.read_bytes(), virtual.read_bytes()):
            return
        for path in (plain, virtual):
            path.write_bytes(before)
    raise AssertionError(f"{command}: the files differ")


def test_filesystem_is_repaired_grown_and_shrunk(overlay: Overlay, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    with plain.open("wb") as file:
        file.truncate(32 * MIB)
    shell(
        "mkfs.ext4", "-q", "-O", "^metadata_csum", "-b", "1024", "-d", CHECKOUT / "thincow", plain
    )
    with plain.open("r+b") as file:
        file.seek(1024 + 12)
        file.write(b"\0\0\0\0")  # the number of free blocks
    shutil.copyfile(plain, overlay.original)
    overlay.start()
    for command, size in (
        (("e2fsck", "-fy"), None),
        (("resize2fs",), 64),
        (("e2fsck", "-fy"), None),
        (("resize2fs", "-M"), None),
        (("e2fsck", "-fy"), 24),
    ):
        change_both(plain, overlay.virtual, command, size)
        overlay.restart()
    assert overlay.commit().returncode == 0
    assert not differing(overlay.original.read_bytes(), plain.read_bytes())
    done = subprocess.run(["e2fsck", "-fn", overlay.original], capture_output=True, check=False)
    assert done.returncode in (0, 4)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-utils")
def test_image_is_converted_and_written_into(overlay: Overlay, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    content = bytearray(16 * MIB)
    for offset in range(0, len(content), MIB):
        content[offset : offset + 100_000] = os.urandom(100_000)
    raw.write_bytes(content)
    plain = tmp_path / "plain.qcow2"
    shell("qemu-img", "convert", "-O", "qcow2", raw, plain)
    shutil.copyfile(plain, overlay.original)
    overlay.start()
    for path in (plain, overlay.virtual):
        shell("qemu-io", "-f", "qcow2", "-c", "write -P 77 3M 64k", path)
        shell("qemu-img", "resize", "-f", "qcow2", "-q", path, "32M")
        shell("qemu-img", "check", "-f", "qcow2", "-q", path)
    assert checksum(overlay.virtual) == checksum(plain)
    for source, target in ((plain, "a"), (overlay.virtual, "b")):
        shell("qemu-img", "convert", "-f", "qcow2", "-O", "raw", source, tmp_path / target)
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b")
    shell("qemu-img", "convert", "-n", "-O", "qcow2", raw, overlay.virtual)
    shell("qemu-img", "compare", raw, overlay.virtual, check=False)
    overlay.umount()
    overlay.check()
