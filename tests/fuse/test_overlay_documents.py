"""What docs/overlay.md and the README tell to do about overlays works as it is written there."""

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.mounting import CHECKOUT, is_mounted, run_thincow, thincow_environment


def shell_blocks(name: str) -> list[str]:
    text = (CHECKOUT / name).read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = shell_blocks("docs/overlay.md")
README = [text for text in shell_blocks("README.md") if "thincow overlay" in text]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a database `big.db` to work in, and `thincow` in its folder `bin`."""
    with closing(sqlite3.connect(tmp_path / "big.db")) as db, db:
        db.execute("CREATE TABLE log(id INTEGER PRIMARY KEY, text TEXT)")
        db.executemany("INSERT INTO log(text) VALUES (?)", [("x" * 1000,)] * 500)
    command = tmp_path / "bin" / "thincow"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m thincow "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(place: Path, commands: str) -> None:
    subprocess.run(
        ["sh", "-e", "-x", "-c", commands],
        cwd=place,
        env={**thincow_environment(), "PATH": f"{place / 'bin'}:{os.environ['PATH']}"},
        check=True,
        timeout=100,
    )


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT count(*) FROM log").fetchone()[0]


def test_document_is_followed_from_beginning_to_end(place: Path) -> None:
    before = checksum(place / "big.db")
    size = (place / "big.db").stat().st_size
    try:
        for commands in BLOCKS:
            changes = "commit" in commands
            run(place, commands)
            if is_mounted(place / "try.db"):
                assert rows(place / "try.db") == 250
            assert (checksum(place / "big.db") == before) is not changes
            if changes:
                before = checksum(place / "big.db")
    finally:
        if is_mounted(place / "try.db"):
            run_thincow("umount", place / "try.db")
    assert rows(place / "big.db") == 250
    assert (place / "big.db").stat().st_size < size
    assert sorted(path.name for path in place.iterdir()) == ["big.db", "bin"]


def test_example_of_the_readme_runs(place: Path) -> None:
    (commands,) = README
    run(place, commands)
    assert rows(place / "big.db") == 250
    assert not (place / "try.db").exists()


def test_document_shows_all_ways_to_end() -> None:
    text = "".join(BLOCKS)
    for words in ("thincow commit", "--discard", "--temporary", "thincow umount try.db"):
        assert words in text
