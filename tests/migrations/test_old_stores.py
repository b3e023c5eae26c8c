"""Stores that older versions made are brought up to date, with their old metadata kept.

`version_N.tar.xz` holds a store of schema N (`data`) with its upstream, and what its devices show.
"""

import sqlite3
import tarfile
from pathlib import Path

import pytest

from tests.support.engines import EngineStore
from tests.support.mounting import run_thincow
from thincow.engine import fsck
from thincow.engine.findings import Code
from thincow.errors import StoreMismatchError
from thincow.store import sql_files
from thincow.store.connection import open_connection
from thincow.store.database import expected_schema, schema_of
from thincow.store.migrations import create_schema

HERE = Path(__file__).parent


@pytest.fixture(params=sorted(HERE.glob("version_*.tar.xz")), ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> EngineStore:
    """An old store, as it was left, beside what its devices show."""
    store = EngineStore(tmp_path / "old")
    store.upstream_dir.rmdir()
    with tarfile.open(request.param) as archive:
        archive.extractall(store.root, filter="data")
    rows = []
    for path in sorted(store.upstream_dir.iterdir()):
        status = path.stat()
        rows.append((status.st_ino, status.st_mtime_ns, path.name))
    database = sqlite3.connect(store.database, isolation_level=None)
    database.executemany("UPDATE devices SET inode = ?, mtime_ns = ? WHERE name = ?", rows)
    database.close()
    return store


def shown(store: EngineStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((store.root / "shown").iterdir())}


def test_old_store_is_brought_up_to_date_and_keeps_a_copy(old: EngineStore) -> None:
    before = old.database.read_bytes()
    version = int.from_bytes(before[60:64])
    old.open()
    for name, content in shown(old).items():
        assert old.read(name) == content
    old.resize("a", 100_000)
    old.write("a", 90_000, b"behind")
    old.restart()
    assert old.read("a", 90_000, 7) == b"behind\0"
    old.close()
    assert fsck.check(old.data_dir, None, old.upstream_dir, deep=True).is_clean
    kept = old.database.with_name(f"metadata.db.v{version}")
    with sqlite3.connect(kept) as copy:
        assert copy.execute("PRAGMA user_version").fetchall() == [(version,)]
        assert copy.execute("SELECT count(*) FROM extents").fetchone()[0] > 0


def test_migrated_store_has_the_same_schema_in_the_same_places(old: EngineStore) -> None:
    old.open()
    old.close()
    migrated = open_connection(old.database, read_only=True, immutable=True)
    assert schema_of(migrated) == expected_schema()
    new = open_connection(None)
    create_schema(new)
    query = "SELECT name, rootpage FROM sqlite_schema WHERE type = 'table' ORDER BY name"
    assert migrated.execute(query).fetchall() == new.execute(query).fetchall()


def test_old_store_is_not_mounted_read_only(old: EngineStore) -> None:
    before = old.database.read_bytes()
    with pytest.raises(StoreMismatchError, match="open it once for writing"):
        old.open(read_only=True)
    assert old.database.read_bytes() == before


def test_check_says_what_an_old_store_needs(old: EngineStore) -> None:
    report = fsck.check(old.data_dir)
    assert report.totals.keys() == {Code.DATABASE_VERSION}
    assert "mount it once" in report.findings[0].message


def test_command_brings_an_old_store_up_to_date(old: EngineStore) -> None:
    directories = ("--data-dir", old.data_dir, "--upstream", old.upstream_dir)
    done = run_thincow("mount", "--no-mount", *directories)
    assert done.returncode == 0, done.stderr
    done = run_thincow("fsck", "--deep", *directories)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("no problems found\n")


def test_there_is_a_store_of_every_older_version() -> None:
    versions = [int(path.name.split("_")[1].split(".")[0]) for path in HERE.glob("*.tar.xz")]
    assert sorted(versions) == list(range(1, sql_files.schema_version()))
