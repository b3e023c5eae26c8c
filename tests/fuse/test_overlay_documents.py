"""What docs/overlay.md and the README tell to do about overlays works as it is written there."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.documents import run_commands, shell_blocks
from tests.support.mounting import is_mounted, run_thincow

BLOCKS = shell_blocks("docs/overlay.md")
README = [text for text in shell_blocks("README.md") if "thincow overlay" in text]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a database `big.db` to work in."""
    with closing(sqlite3.connect(tmp_path / "big.db")) as db, db:
        db.execute("CREATE TABLE log(id INTEGER PRIMARY KEY, text TEXT)")
        db.executemany("INSERT INTO log(text) VALUES (?)", [("x" * 1000,)] * 500)
    return tmp_path


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
            run_commands(place, commands)
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
    run_commands(place, commands)
    assert rows(place / "big.db") == 250
    assert not (place / "try.db").exists()


def test_document_shows_all_ways_to_end() -> None:
    text = "".join(BLOCKS)
    for words in ("thincow commit", "--discard", "--temporary", "thincow umount try.db"):
        assert words in text
