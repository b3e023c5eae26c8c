import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.engines import BLOCK, letters
from tests.support.plain_store import connect, make_store, plant
from tests.support.repairable_store import A, RepairableStore, make_repairable_store
from thincow.engine.findings import Code
from thincow.engine.fsck import check
from thincow.engine.losses import LossReason
from thincow.engine.repair import RepairResult, repair
from thincow.errors import CorruptStoreError
from thincow.store.disk import Disk
from thincow.store.salvage import Salvaged, salvage
from thincow.store.snapshot import Snapshot

TABLES = ("flushing", "globals", "devices", "extents", "cow", "hashes", "checksums", "fingerprints")
PAGE = 4096
EXTENTS = 6000


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with trees of two levels, and a checksum that does not fit its page."""
    path = make_store(tmp_path / "store") / "metadata.db"
    with closing(connect(path.parent)) as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM extents")
        rows = ((A + 2 * i, 1, 1, 3 * i) for i in range(EXTENTS))
        connection.executemany("INSERT INTO extents VALUES (?, ?, ?, ?)", rows)
        row = (A + (1 << 20), 512, 64, bytes(range(64)), bytes(range(256)) * 16)
        connection.execute("INSERT INTO checksums VALUES (?, ?, ?, ?, ?)", row)
        connection.execute("COMMIT")
    return path


def rows_of(path: Path) -> dict[str, list[object]]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
            for table in TABLES
        }


def root_of(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        (page,) = connection.execute(query, (table,)).fetchone()
        return int(page)


def leaves_of(path: Path, table: str) -> list[int]:
    """Return the pages below the root of a table of two levels, but for the last."""
    root = root_of(path, table)
    content = path.read_bytes()[(root - 1) * PAGE : root * PAGE]
    cells = [int.from_bytes(content[at : at + 2]) for at in range(12, 16, 2)]
    return [int.from_bytes(content[cell : cell + 4]) for cell in cells]


def overwrite(path: Path, page: int, content: bytes = bytes(PAGE)) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def saved(path: Path) -> tuple[Salvaged, dict[str, list[object]]]:
    target = path.with_name("saved.db")
    result = salvage(Disk(), path, target)
    assert target.stat().st_mode & 0o777 == 0o600
    return result, rows_of(target)


def test_salvage_of_sound_database_is_a_copy(database: Path) -> None:
    expected = rows_of(database)
    result, found = saved(database)
    assert found == expected
    assert result.map_is_whole
    assert result.rows["extents"] == EXTENTS


def test_salvage_needs_no_first_page(database: Path) -> None:
    expected = rows_of(database)
    overwrite(database, 1)
    result, found = saved(database)
    assert found == expected
    assert result.map_is_whole


def test_salvage_finds_leaves_without_their_root(database: Path) -> None:
    expected = rows_of(database)
    overwrite(database, root_of(database, "extents"))
    result, found = saved(database)
    assert found == expected
    assert not result.map_is_whole


def test_salvage_goes_on_behind_a_bad_leaf(database: Path) -> None:
    expected = rows_of(database)
    overwrite(database, leaves_of(database, "extents")[0], b"\xff" * PAGE)
    result, found = saved(database)
    assert not result.map_is_whole
    assert set(found["extents"]) < set(expected["extents"])
    assert len(found["extents"]) > 0.9 * EXTENTS


def test_salvage_of_truncated_database(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)
    result, found = saved(database)
    assert not result.map_is_whole
    assert 0 < len(found["extents"]) < EXTENTS
    assert len(found["globals"]) == 7


def test_salvage_sees_the_log_of_a_database_without_a_header(
    database: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    with closing(connect(database.parent)) as connection:
        connection.execute("UPDATE extents SET target = 5 WHERE first_block = ?", (A,))
        expected = rows_of(database)
        shutil.copytree(database.parent, copy, ignore=shutil.ignore_patterns("*-shm"))
    overwrite(copy / "metadata.db", 1)
    assert saved(copy / "metadata.db")[1] == expected


def test_salvage_ignores_what_was_not_committed(database: Path, tmp_path: Path) -> None:
    expected = rows_of(database)
    copy = tmp_path / "copy"
    with closing(connect(database.parent)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        connection.execute("UPDATE extents SET target = target + 1")
        shutil.copytree(database.parent, copy, ignore=shutil.ignore_patterns("*-shm"))
    assert (copy / "metadata.db-wal").stat().st_size > 0
    assert saved(copy / "metadata.db")[1] == expected


def test_salvage_runs_nothing_of_the_schema(database: Path) -> None:
    expected = rows_of(database)
    plant(
        database.parent,
        [
            "CREATE TRIGGER t AFTER INSERT ON extents BEGIN DELETE FROM extents; END",
            "CREATE TABLE mine (x)",
            "DROP VIEW savings",
        ],
    )
    assert saved(database)[1] == expected


def test_salvage_leaves_out_values_of_wrong_types(database: Path) -> None:
    page = root_of(database, "fingerprints")
    content = bytearray(database.read_bytes()[(page - 1) * PAGE : page * PAGE])
    content[-9] = 0x13  # the type of the last column: a text of three bytes
    overwrite(database, page, bytes(content))
    _, found = saved(database)
    assert found["fingerprints"] == []


def test_check_of_keys_in_no_order_ends(database: Path) -> None:
    with closing(connect(database.parent)) as connection:
        connection.execute("BEGIN")
        rows = ((A + 4 * i, 4, 8, b"\x0f", bytes(4)) for i in range(2000))
        connection.executemany("INSERT OR REPLACE INTO checksums VALUES (?, ?, ?, ?, ?)", rows)
        connection.execute("COMMIT")
    leaf = leaves_of(database, "checksums")[0]
    page = bytearray(database.read_bytes()[(leaf - 1) * PAGE : leaf * PAGE])
    page[8:10], page[30:32] = page[30:32], page[8:10]  # where two rows are
    overwrite(database, leaf, bytes(page))
    with (
        Snapshot.open_offline(database) as snapshot,
        pytest.raises(CorruptStoreError, match="out of order"),
    ):
        list(snapshot.checksum_rows())
    assert {Code.DATABASE_DAMAGED, Code.TABLE_UNREADABLE} <= set(
        check(database.parent, deep=True).totals
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RepairableStore:
    return make_repairable_store(tmp_path_factory.mktemp("original"))


@pytest.fixture
def store(original: RepairableStore, tmp_path: Path) -> Iterator[RepairableStore]:
    copy = original.copy(tmp_path / "real")
    yield copy
    assert check(copy.data_dir, None, copy.upstream_dir, deep=True).findings == ()


def mended(store: RepairableStore, expected: Code) -> RepairResult:
    result = repair(store.data_dir, None, store.upstream_dir)
    assert expected in result.before.totals
    assert result.after is not None, result.notes
    assert result.after.is_clean
    return result


def test_repair_of_database_without_header_loses_nothing(store: RepairableStore) -> None:
    overwrite(store.data_dir / "metadata.db", 1)
    assert mended(store, Code.DATABASE_UNREADABLE).is_complete
    assert store.read() == store.contents


@pytest.mark.parametrize("table", ["hashes", "checksums", "cow", "fingerprints"])
def test_repair_does_without_a_derivable_table(store: RepairableStore, table: str) -> None:
    database = store.data_dir / "metadata.db"
    overwrite(database, root_of(database, table), b"\xff" * PAGE)
    assert mended(store, Code.TABLE_UNREADABLE).is_complete
    assert store.read() == store.contents


def test_repair_says_that_the_map_was_lost(store: RepairableStore) -> None:
    database = store.data_dir / "metadata.db"
    overwrite(database, root_of(database, "extents"), b"\xff" * PAGE)
    result = repair(store.data_dir, None, store.upstream_dir, deep=True)
    assert not result.is_complete
    assert LossReason.MAP in {loss.reason for loss in result.losses}
    assert "7 blocks of cowdata were counted as used" in result.notes[0]
    # Checksums tell exactly which blocks show something else now.
    damaged = {loss for loss in result.losses if loss.reason == LossReason.CHECKSUM}
    assert (0, 4 * BLOCK) in {(loss.offset_bytes, loss.length_bytes) for loss in damaged}


def test_repair_of_lost_log_goes_on_from_the_last_checkpoint(
    store: RepairableStore, tmp_path: Path
) -> None:
    old = (store.data_dir / "metadata.db").read_bytes()
    store.write("a", 0, letters("xyz"))
    (store.data_dir / "metadata.db").write_bytes(old)
    result = mended(store, Code.LABEL_GENERATION)
    assert LossReason.OLDER in {loss.reason for loss in result.losses}
    assert store.read()["a"][4 * BLOCK :] == store.contents["a"][4 * BLOCK :]
