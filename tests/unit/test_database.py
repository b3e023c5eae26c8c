"""`metadata.db` as a whole: made, migrated, refused."""

import sqlite3
from pathlib import Path

import pytest

from tests.support.directories import photograph
from tests.support.engines import EngineStore
from tests.support.sqlite_shell import SqliteShell
from thincow.errors import CorruptStoreError, StoreFailedError, StoreMismatchError, ThincowError
from thincow.store import database, sql_files, validation
from thincow.store.connection import APPLICATION_ID, open_connection, transaction
from thincow.store.database import expected_schema, schema_of
from thincow.store.disk import Disk
from thincow.store.globals_table import Globals
from thincow.store.migrations import migrate, version_of

FACTS = Globals("0" * 32, 512, 4, 0, clean=True, hash_entries=0, checksum_bits=0)
WHERE = Path("metadata.db")


def make_old(path: Path) -> None:
    """Make a database of version 1 by its migration."""
    db = open_connection(path, create=True)
    with transaction(db):
        db.execute(sql_files.migrations()[0][1])
        db.pragma("application_id", APPLICATION_ID)
        db.pragma("user_version", 1)
    db.close()


def alter(store: EngineStore, *statements: str) -> None:
    """Change the database of a closed store as an outsider."""
    connection = sqlite3.connect(store.database, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


@pytest.fixture
def closed(store: EngineStore) -> EngineStore:
    """A store that was written to and closed."""
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 1, "xy")
    store.close()
    return store


def expect_refused(store: EngineStore, error: type[ThincowError], words: str) -> None:
    """Opening fails and leaves every file as it is."""
    store.must_be_sound = False
    before = photograph(store.root)
    for read_only in (False, True):
        with pytest.raises(error, match=words):
            store.open(read_only=read_only)
        assert photograph(store.root) == before


def test_migrations_give_the_schema_of_today(tmp_path):
    db = open_connection(None)
    for _, statements in sql_files.migrations():
        with transaction(db):
            db.execute(statements)
    assert schema_of(db) == expected_schema()


def test_new_database_has_the_schema_and_is_in_wal_mode(tmp_path):
    path = tmp_path / "metadata.db"
    database.create(Disk(), path, FACTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["metadata.db"]
    db = open_connection(path)
    assert validation.validate(db, path) == FACTS
    assert db.pragma("journal_mode") == "wal"
    assert db.pragma("application_id") == APPLICATION_ID
    assert db.pragma("user_version") == sql_files.schema_version()
    db.close()


def test_creation_that_was_cut_short_is_done_again(tmp_path):
    (tmp_path / "metadata.db.new").write_bytes(b"half a database")
    (tmp_path / "metadata.db.new-journal").write_bytes(b"of another try")
    database.create(Disk(), tmp_path / "metadata.db", FACTS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["metadata.db"]


def test_migration_brings_an_old_database_up_and_keeps_a_copy(tmp_path, monkeypatch):
    path = tmp_path / "metadata.db"
    make_old(path)
    steps = (
        *sql_files.migrations()[:1],
        (2, "CREATE TABLE second (a INTEGER) STRICT; CREATE INDEX i ON second (a);"),
        (3, "ALTER TABLE second ADD COLUMN b INTEGER;"),
    )
    monkeypatch.setattr(sql_files, "migrations", lambda: steps)
    db = open_connection(path)
    migrate(db, path)
    assert db.pragma("user_version") == 3
    columns = db.execute("SELECT group_concat(name) FROM pragma_table_info('second')").fetchall()
    assert columns == [("a,b",)]
    migrate(db, path)
    db.close()
    old = open_connection(tmp_path / "metadata.db.v1")
    assert version_of(old, path) == 1
    old.close()


def test_migration_that_was_killed_can_be_repeated(tmp_path, monkeypatch):
    path = tmp_path / "metadata.db"
    make_old(path)
    steps = (*sql_files.migrations()[:1], (2, "CREATE TABLE second (a INTEGER) STRICT;"))
    monkeypatch.setattr(sql_files, "migrations", lambda: steps)
    (tmp_path / "metadata.db.v1").write_bytes(b"part of a copy")
    db = open_connection(path)
    migrate(db, path)
    assert db.pragma("user_version") == 2
    db.close()
    old = open_connection(tmp_path / "metadata.db.v1")
    assert version_of(old, path) == 1
    old.close()


def test_migration_that_fails_leaves_the_step_before(tmp_path, monkeypatch):
    path = tmp_path / "metadata.db"
    make_old(path)
    steps = (
        *sql_files.migrations()[:1],
        (2, "CREATE TABLE second (a INTEGER) STRICT;"),
        (3, "CREATE TABLE third (a INTEGER) STRICT; INSERT INTO absent VALUES (1);"),
    )
    monkeypatch.setattr(sql_files, "migrations", lambda: steps)
    db = open_connection(path)
    with pytest.raises(Exception, match="absent"):
        migrate(db, path)
    assert db.pragma("user_version") == 2
    names = {name for _, name, _, _ in schema_of(db)}
    assert "second" in names
    assert "third" not in names
    db.close()


def test_newer_database_is_refused(closed):
    alter(closed, "PRAGMA user_version = 99")
    expect_refused(closed, StoreMismatchError, "newer thincow .schema 99")


def test_newer_database_in_another_journal_mode_is_refused_untouched(closed):
    alter(closed, "PRAGMA journal_mode = DELETE", "PRAGMA user_version = 99")
    expect_refused(closed, StoreMismatchError, "newer thincow")


def test_database_in_another_journal_mode_is_brought_back(closed):
    alter(closed, "PRAGMA journal_mode = DELETE", "VACUUM")
    closed.open()
    assert closed.read_blocks("a") == "axyd"


def test_foreign_database_is_refused(closed):
    alter(closed, "PRAGMA application_id = 1")
    expect_refused(closed, CorruptStoreError, "is not a thincow store")


def test_foreign_database_in_another_journal_mode_is_refused_untouched(closed):
    closed.database.unlink()
    alter(closed, "CREATE TABLE photographs (name TEXT)")
    expect_refused(closed, CorruptStoreError, "is not a thincow store")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON extents BEGIN DELETE FROM cow; END",
        "CREATE VIEW v AS SELECT load_extension('evil')",
        "CREATE INDEX i ON extents (target)",
        "CREATE TABLE more (a)",
        "DROP VIEW savings",
        "ALTER TABLE cow ADD COLUMN more INTEGER",
    ],
)
def test_hostile_schema_is_refused(closed, statement):
    alter(closed, statement)
    expect_refused(closed, CorruptStoreError, "schema")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM globals WHERE key = 'block_size'",
        "UPDATE globals SET value = 'much' WHERE key = 'block_size'",
        "UPDATE globals SET value = 1000 WHERE key = 'block_size'",
        "UPDATE globals SET value = 256 WHERE key = 'block_size'",
        "UPDATE globals SET value = 3 WHERE key = 'window_blocks'",
        "UPDATE globals SET value = 0 WHERE key = 'window_blocks'",
        "UPDATE globals SET value = -1 WHERE key = 'generation'",
        "UPDATE globals SET value = 7 WHERE key = 'checksum_bits'",
        "UPDATE globals SET value = x'00' WHERE key = 'store_id'",
    ],
)
def test_impossible_facts_are_refused(closed, statement):
    alter(closed, statement)
    expect_refused(closed, CorruptStoreError, "globals")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE extents SET length = 5",
        "UPDATE extents SET target = 4611686018427387904",
        "INSERT INTO extents SELECT first_block + 1, 1, 2, 0 FROM extents",
    ],
)
def test_impossible_extents_are_not_used(closed, statement, caplog):
    alter(closed, statement)
    closed.must_be_sound = False
    closed.open()
    with pytest.raises(StoreFailedError, match="thincow fsck"):
        closed.read("a")
    with pytest.raises(StoreFailedError, match="thincow fsck"):
        closed.write_blocks("a", 0, "v")
    assert "run 'thincow fsck'" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_file_that_is_no_database_is_refused(closed, content):
    closed.database.write_bytes(content)
    expect_refused(closed, CorruptStoreError, "metadata.db")


def test_damaged_database_is_noticed_after_an_unclean_close(closed):
    closed.open()
    closed.write_blocks("a", 0, "uvwx")
    closed.kill()
    path = closed.database
    connection = sqlite3.connect(path, isolation_level=None)
    ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'cow'")
    ((size,),) = connection.execute("PRAGMA page_size")
    connection.close()  # merges the log
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : (page - 1) * size + 100] = b"\xff" * 100
    path.write_bytes(content)
    closed.must_be_sound = False
    with pytest.raises(CorruptStoreError, match="damaged"):
        closed.open()


def test_views_can_be_read_by_the_shell_of_the_system(closed):
    closed.open()
    with SqliteShell(closed.database) as shell:
        rows = shell.run("SELECT device, offset_bytes, length_bytes, kind FROM extent_list")
        assert rows == ["a|512|1024|cow"]
        assert shell.run("SELECT blocks FROM savings WHERE kind = 'total'") == ["0"]
        assert shell.run("SELECT cow_blocks, cow_references FROM space_use") == ["2|2"]
        assert shell.run("SELECT name, blocks, cow_blocks FROM device_summary") == ["a|4|2"]
