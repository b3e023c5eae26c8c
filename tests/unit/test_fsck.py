import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.plain_store import A, B, connect, make_store, make_upstream, plant, write_label
from thincow.engine.findings import KEPT_PER_CODE, REPAIRS, Code, NoProgress, Report
from thincow.engine.fsck import check, check_snapshot
from thincow.errors import NoStoreError, StoreInUseError
from thincow.store.locks import DirectoryLock
from thincow.store.snapshot import Snapshot
from thincow.store.sql_files import schema_version

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "fsck.md"

PLANTED_SQL: list[tuple[Code, list[str]]] = [
    (Code.DATABASE_FOREIGN, ["PRAGMA application_id = 1"]),
    (Code.DATABASE_VERSION, ["PRAGMA user_version = 99"]),
    (Code.SCHEMA_DIFFERS, ["CREATE TABLE mine (x)"]),
    (Code.SCHEMA_DIFFERS, ["DROP VIEW savings"]),
    (Code.SCHEMA_DIFFERS, ["ALTER TABLE cow ADD COLUMN more INTEGER"]),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals WHERE key = 'window_blocks'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = 3 WHERE key = 'window_blocks'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = 'many' WHERE key = 'block_size'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = 9 WHERE key = 'checksum_bits'"]),
    (Code.DEVICE_VALUE, ["UPDATE devices SET name = '../a' WHERE id = 1"]),
    (Code.DEVICE_VALUE, [f"UPDATE devices SET size_bytes = {1 << 62} WHERE id = 1"]),
    (Code.EXTENT_RANGE, [f"INSERT INTO extents VALUES ({3 << 40}, 1, 2, 0)"]),
    (Code.EXTENT_RANGE, [f"INSERT INTO extents VALUES ({B + 4}, 1, 2, 0)"]),
    (Code.EXTENT_RANGE, [f"INSERT INTO extents VALUES ({A + 8}, {(1 << 63) - 1}, 2, 0)"]),
    (Code.EXTENT_RANGE, ["INSERT INTO extents VALUES (-1, 1, 2, 0)"]),
    (Code.EXTENT_OVERLAP, [f"UPDATE extents SET length = 2 WHERE first_block = {A + 2}"]),
    (Code.EXTENT_WINDOW, [f"INSERT INTO extents VALUES ({A + 7}, 2, 2, 0)"]),
    (Code.EXTENT_TARGET, [f"UPDATE extents SET target = {B + 3} WHERE kind = 0"]),
    (Code.EXTENT_TARGET, [f"UPDATE extents SET target = {(1 << 63) - 1} WHERE kind = 0"]),
    (Code.EXTENT_TARGET, ["UPDATE extents SET target = 1 WHERE kind = 2"]),
    (Code.EXTENT_IDENTITY, [f"INSERT INTO extents VALUES ({A + 8}, 1, 0, {A + 8})"]),
    (Code.COW_OVERLAP, ["UPDATE cow SET length = 2 WHERE first_block = 0"]),
    (Code.COW_WINDOW, ["INSERT INTO cow VALUES (3, 2, 1)", "DELETE FROM cow WHERE first_block=4"]),
    (Code.COUNT_WRONG, ["UPDATE cow SET refs = 3 WHERE first_block = 1"]),
    (Code.COUNT_WRONG, ["DELETE FROM cow WHERE first_block = 4"]),
    (Code.COUNT_WRONG, ["INSERT INTO cow VALUES (3, 1, 1)"]),
    (Code.COUNT_WRONG, [f"DELETE FROM extents WHERE first_block = {B}"]),
    (Code.HASH_TARGET, [f"UPDATE hashes SET target = {B + 4} WHERE kind = 0"]),
    (Code.HASH_TARGET, [f"UPDATE hashes SET target = {1 << 62} WHERE hash = 9"]),
    (Code.HASH_TARGET, ["UPDATE hashes SET target = 1 WHERE kind = 2"]),
    (Code.HASH_ENTRIES, ["DELETE FROM hashes WHERE hash = 9"]),
    (Code.CHECKSUM_ROW, ["UPDATE checksums SET sums = zeroblob(3)"]),
    (Code.CHECKSUM_ROW, ["UPDATE checksums SET present = zeroblob(2)"]),
    (Code.CHECKSUM_ROW, [f"UPDATE checksums SET first_block = {A + 12}"]),
    (
        Code.CHECKSUM_ROW,
        [f"INSERT INTO checksums VALUES ({A + 3}, 1, 8, zeroblob(1), zeroblob(1))"],
    ),
    (Code.FLUSHING_RANGE, [f"INSERT INTO flushing VALUES ({A + 10}, 1)"]),
    (Code.FLUSHING_RANGE, [f"INSERT INTO flushing VALUES ({A}, 3), ({A + 2}, 1)"]),
    (Code.FLUSHING_SHOWN, [f"INSERT INTO flushing VALUES ({A + 9}, 1)"]),
    (Code.FLUSHING_SHOWN, ["INSERT INTO flushing SELECT target, 1 FROM extents WHERE kind = 0"]),
    (Code.FINGERPRINT_RANGE, [f"INSERT INTO fingerprints VALUES ({A + 10}, 1)"]),
    # What follows the schema forbids, but SQLite looks at that only in files that it may write.
    (Code.DEVICE_VALUE, ["UPDATE devices SET type = 'pipe' WHERE id = 1"]),
    (Code.DEVICE_VALUE, ["UPDATE devices SET id = 0 WHERE id = 2"]),
    (Code.EXTENT_RANGE, [f"INSERT INTO extents VALUES ({A + 8}, 0, 2, 0)"]),
    (Code.EXTENT_KIND, ["UPDATE extents SET kind = 3 WHERE kind = 2"]),
    (Code.COW_RANGE, ["INSERT INTO cow VALUES (7, 1, 0)"]),
    (Code.COW_RANGE, ["INSERT INTO cow VALUES (-1, 1, 1)"]),
    (Code.COW_RANGE, [f"INSERT INTO cow VALUES (8, {-(1 << 63)}, 1)"]),
    (Code.HASH_TARGET, ["UPDATE hashes SET kind = 7 WHERE kind = 2"]),
    (Code.CHECKSUM_ROW, ["UPDATE checksums SET bits = 7"]),
    (
        Code.CHECKSUM_ROW,
        [
            f"UPDATE devices SET size_bytes = {1 << 24} WHERE id = 2",
            f"INSERT INTO checksums VALUES ({B}, 520, 8, zeroblob(65), zeroblob(520))",
        ],
    ),
]


def truncate_cowdata(store: Path) -> None:
    with (store / "cowdata").open("r+b") as file:
        file.truncate(5 * 4096 - 1)


def overwrite_database(store: Path) -> None:
    (store / "metadata.db").write_bytes(b"no database" * 1000)


def overwrite_page(store: Path) -> None:
    """Destroy the page that holds the table `extents`."""
    page, size = _root_page(store, "extents")
    with (store / "metadata.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\x0d" + b"\xff" * (size - 1))


def make_label_a_directory(store: Path) -> None:
    (store / "cowdata.id").unlink()
    (store / "cowdata.id").mkdir()


PLANTED_FILES: list[tuple[set[Code], Callable[[Path], None]]] = [
    ({Code.METADATA_MISSING}, lambda store: (store / "metadata.db").unlink()),
    ({Code.COWDATA_MISSING}, lambda store: (store / "cowdata").unlink()),
    ({Code.FILE_TYPE}, make_label_a_directory),
    ({Code.LABEL_MISSING}, lambda store: (store / "cowdata.id").unlink()),
    ({Code.LABEL_DAMAGED}, lambda store: _write(store / "cowdata.id", b"\xff" * 20)),
    ({Code.LABEL_STORE}, lambda store: write_label(store, "f" * 32, 7)),
    ({Code.LABEL_GENERATION}, lambda store: write_label(store, "0123456789abcdef" * 2, 8)),
    ({Code.COWDATA_SHORT, Code.EXTENT_TARGET}, truncate_cowdata),
    ({Code.DATABASE_UNREADABLE}, overwrite_database),
    ({Code.DATABASE_DAMAGED, Code.TABLE_UNREADABLE}, overwrite_page),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


def codes(report: Report) -> set[Code]:
    assert set(report.totals) == {finding.code for finding in report.findings}
    return set(report.totals)


def test_check_of_sound_store_finds_nothing(store: Path) -> None:
    report = check(store)
    assert report.is_clean
    assert report.findings == ()
    assert report.facts == {
        "cowdata_bytes": 5 * 4096,
        "devices": 2,
        "extents": 5,
        "cow_rows": 3,
        "cow_blocks": 3,
        "hash_entries": 4,
        "stale_hash_entries": 1,
        "checksum_rows": 1,
        "flushing_ranges": 0,
        "fingerprints": 1,
    }


@pytest.mark.parametrize(("code", "statements"), PLANTED_SQL)
def test_check_finds_planted_row(store: Path, code: Code, statements: list[str]) -> None:
    plant(store, statements)
    found = codes(check(store))
    # A wrong row of counts, or an extent that cannot be, leaves the sums wrong as well.
    assert found - {Code.COUNT_WRONG} == {code} - {Code.COUNT_WRONG}
    assert code in found


@pytest.mark.parametrize(("expected", "damage"), PLANTED_FILES)
def test_check_finds_damaged_file(
    store: Path, expected: set[Code], damage: Callable[[Path], None]
) -> None:
    damage(store)
    assert codes(check(store)) == expected


def test_check_tells_what_is_wrong_with_a_count(store: Path) -> None:
    plant(store, ["UPDATE cow SET refs = 3 WHERE first_block = 1"])
    (finding,) = check(store).findings
    assert finding.place == "COW block 1"
    assert finding.message == "1 blocks have 2 references, stored is 3"
    assert finding.repair is REPAIRS[Code.COUNT_WRONG]


def test_check_names_device_and_byte_of_an_extent(store: Path) -> None:
    plant(store, [f"INSERT INTO extents VALUES ({A + 8}, 1, 0, {A + 8})"])
    (finding,) = check(store).findings
    assert finding.place == "device a, byte 32768"


def test_check_keeps_first_findings_and_counts_all(store: Path) -> None:
    rows = ", ".join(f"({(5 << 40) + i}, 1, 2, 0)" for i in range(3 * KEPT_PER_CODE))
    plant(store, [f"INSERT INTO extents VALUES {rows}"])
    report = check(store)
    assert report.totals == {Code.EXTENT_RANGE: 3 * KEPT_PER_CODE}
    assert len(report.findings) == KEPT_PER_CODE


def test_check_accepts_upstream_as_recorded(tmp_path: Path) -> None:
    upstream = make_upstream(tmp_path / "upstream")
    store = make_store(tmp_path / "store", upstream)
    (upstream / "new").write_bytes(bytes(512))
    assert check(store, upstream_dir=upstream).is_clean


def test_check_finds_changed_upstream(tmp_path: Path) -> None:
    upstream = make_upstream(tmp_path / "upstream")
    store = make_store(tmp_path / "store", upstream)
    (upstream / "b").unlink()
    with (upstream / "a").open("ab") as file:
        file.write(b"more")
    report = check(store, upstream_dir=upstream)
    assert codes(report) == {Code.UPSTREAM_MISSING, Code.UPSTREAM_CHANGED}
    assert {finding.place for finding in report.findings} == {"device a", "device b"}


def test_check_finds_changed_contents_of_upstream(tmp_path: Path) -> None:
    upstream = make_upstream(tmp_path / "upstream")
    store = make_store(tmp_path / "store", upstream)
    plant(store, [f"UPDATE fingerprints SET hash = 1 WHERE block = {A + 6}"])
    assert codes(check(store, upstream_dir=upstream)) == {Code.UPSTREAM_CHANGED}


def test_check_finds_unusable_upstream(store: Path, tmp_path: Path) -> None:
    report = check(store, upstream_dir=tmp_path / "none")
    assert codes(report) == {Code.UPSTREAM_UNUSABLE}


def test_check_of_separate_metadata_directory(store: Path, tmp_path: Path) -> None:
    metadata = tmp_path / "metadata"
    metadata.mkdir()
    (store / "metadata.db").rename(metadata / "metadata.db")
    assert check(store, metadata).is_clean
    assert codes(check(store)) == {Code.METADATA_MISSING}


def test_check_without_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoStoreError, match="no store in"):
        check(tmp_path)
    with pytest.raises(NoStoreError, match="no directory"):
        check(tmp_path / "none")


def test_check_of_store_in_use_is_refused(store: Path) -> None:
    lock = DirectoryLock.acquire(store, exclusive=True)
    try:
        with pytest.raises(StoreInUseError):
            check(store)
    finally:
        lock.release()
    assert check(store).is_clean


def test_check_goes_on_beside_a_reader(store: Path) -> None:
    lock = DirectoryLock.acquire(store, exclusive=False)
    try:
        assert check(store).is_clean
    finally:
        lock.release()


def test_check_with_unmerged_log_sees_it_and_writes_nothing(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    _copy_with_log(store, copy, "UPDATE cow SET refs = 3 WHERE first_block = 1")
    before = _contents(copy)
    assert "metadata.db-wal" in before
    assert codes(check(copy)) == {Code.COUNT_WRONG}
    assert _contents(copy) == before


def test_check_writes_nothing(store: Path) -> None:
    before = _contents(store)
    check(store)
    assert _contents(store) == before


def test_check_never_fails_on_damaged_database(store: Path, tmp_path: Path) -> None:
    chance = random.Random(11)
    good = (store / "metadata.db").read_bytes()
    damaged = tmp_path / "damaged"
    shutil.copytree(store, damaged)
    for _ in range(150):
        content = bytearray(good)
        for _ in range(chance.choice((1, 3, 30))):
            start = chance.choice((chance.randrange(4096), chance.randrange(len(good))))
            size = chance.choice((1, 2, 8, 512))
            content[start : start + size] = chance.randbytes(size)
        if chance.random() < 0.2:
            del content[chance.randrange(len(content)) :]
        (damaged / "metadata.db").write_bytes(content)
        check(damaged)


def test_check_tells_stages(store: Path) -> None:
    stages: list[str] = []

    class Told(NoProgress):
        def stage(self, name: str) -> None:
            stages.append(name)

    check(store, progress=Told())
    assert stages[:3] == ["files", "schema", "database"]
    assert {"extents", "counts", "hashes", "checksums"} < set(stages)


def test_check_snapshot_leaves_it_open(store: Path) -> None:
    plant(store, ["UPDATE cow SET refs = 3 WHERE first_block = 1"])
    with Snapshot.open_offline(store / "metadata.db") as snapshot:
        assert codes(check_snapshot(snapshot)) == {Code.COUNT_WRONG}
        short = check_snapshot(snapshot, cowdata_bytes=4096)
        assert {Code.COWDATA_SHORT, Code.EXTENT_TARGET} < codes(short)
        assert snapshot.user_version() == schema_version()


def test_every_code_has_a_repair_a_test_and_a_line_in_the_document() -> None:
    planted = {code for code, _ in PLANTED_SQL}
    planted |= {code for expected, _ in PLANTED_FILES for code in expected}
    # Contents are damaged in test_deep_check.py.
    planted |= {Code.COWDATA_UNREADABLE, Code.HASH_CONTENT, Code.CHECKSUM_CONTENT}
    planted |= {Code.UPSTREAM_MISSING, Code.UPSTREAM_CHANGED, Code.UPSTREAM_UNUSABLE}
    assert planted == set(Code)
    assert set(REPAIRS) == set(Code)
    text = DOCUMENT.read_text()
    assert [code for code in Code if f"`{code}`" not in text] == []


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _contents(directory: Path) -> dict[str, tuple[bytes, int]]:
    files = directory.iterdir()
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def _copy_with_log(store: Path, copy: Path, statement: str) -> None:
    """Copy a store while its last change is only in the write-ahead log."""
    connection = connect(store)
    try:
        connection.execute(statement)
        shutil.copytree(store, copy, ignore=shutil.ignore_patterns("*-shm"))
    finally:
        connection.close()


def _root_page(store: Path, table: str) -> tuple[int, int]:
    connection = connect(store)
    try:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = ?"
        (page,) = connection.execute(query, (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        return page, size
    finally:
        connection.close()
