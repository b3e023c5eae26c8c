from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.plain_store import connect, plant, write_label
from tests.support.repairable_store import (
    UPSTREAMS,
    A,
    B,
    RepairableStore,
    make_repairable_store,
)
from thincow.engine.findings import Code
from thincow.engine.fsck import check
from thincow.engine.losses import Loss, LossReason
from thincow.engine.repair import RepairResult, repair
from thincow.errors import NoStoreError, StoreInUseError
from thincow.store.disk import Disk
from thincow.store.failure_mark import has_mark, write_mark
from thincow.store.locks import DirectoryLock

BLOCK = 512

# What a repair mends without losing anything.
HARMLESS_SQL: list[tuple[Code, list[str]]] = [
    (Code.SCHEMA_DIFFERS, ["CREATE TABLE mine (x)"]),
    (Code.SCHEMA_DIFFERS, ["DROP VIEW savings"]),
    (Code.SCHEMA_DIFFERS, ["ALTER TABLE cow ADD COLUMN more INTEGER"]),
    (
        Code.SCHEMA_DIFFERS,
        ["CREATE TRIGGER t AFTER INSERT ON extents BEGIN DELETE FROM extents; END"],
    ),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals WHERE key = 'store_id'"]),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals WHERE key = 'window_blocks'"]),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals WHERE key = 'block_size'"]),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals WHERE key = 'checksum_bits'"]),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals WHERE key = 'generation'"]),
    (Code.GLOBAL_MISSING, ["DELETE FROM globals"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = 3 WHERE key = 'window_blocks'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = 'many' WHERE key = 'block_size'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = 9 WHERE key = 'checksum_bits'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = -1 WHERE key = 'hash_entries'"]),
    (Code.GLOBAL_VALUE, ["UPDATE globals SET value = x'00' WHERE key = 'clean'"]),
    (Code.EXTENT_RANGE, [f"INSERT INTO extents VALUES ({3 << 40}, 1, 2, 0)"]),
    (Code.EXTENT_RANGE, ["INSERT INTO extents VALUES (-1, 1, 2, 0)"]),
    (Code.EXTENT_RANGE, [f"INSERT INTO extents VALUES ({B + 9}, 1, 2, 0)"]),
    (Code.EXTENT_WINDOW, ["UPDATE globals SET value = 2 WHERE key = 'window_blocks'"]),
    (Code.EXTENT_IDENTITY, [f"INSERT INTO extents VALUES ({A + 7}, 1, 0, {A + 7})"]),
    (Code.COW_RANGE, ["INSERT INTO cow VALUES (30, 1, 0)"]),
    (Code.COW_RANGE, ["INSERT INTO cow VALUES (-1, 1, 1)"]),
    (Code.COW_OVERLAP, ["UPDATE cow SET length = 3 WHERE first_block = 0"]),
    (Code.COW_WINDOW, ["UPDATE globals SET value = 1 WHERE key = 'window_blocks'"]),
    (Code.COUNT_WRONG, ["UPDATE cow SET refs = 7 WHERE first_block = 0"]),
    (Code.COUNT_WRONG, ["DELETE FROM cow WHERE first_block = 0"]),
    (Code.COUNT_WRONG, ["DELETE FROM cow"]),
    (Code.HASH_TARGET, [f"UPDATE hashes SET target = {B + 9} WHERE target = {B}"]),
    (Code.HASH_TARGET, ["UPDATE hashes SET kind = 7 WHERE kind = 1 AND target = 0"]),
    (Code.HASH_ENTRIES, ["DELETE FROM hashes WHERE kind = 0"]),
    (Code.CHECKSUM_ROW, ["UPDATE checksums SET sums = zeroblob(3)"]),
    (Code.CHECKSUM_ROW, ["UPDATE checksums SET bits = 8"]),
    (Code.CHECKSUM_ROW, [f"UPDATE checksums SET first_block = {A + 99} WHERE first_block = {A}"]),
    (Code.CHECKSUM_ROW, [f"INSERT INTO checksums VALUES ({A + 1}, 1, 16, x'01', x'0000')"]),
    (Code.FLUSHING_RANGE, [f"INSERT INTO flushing VALUES ({3 << 40}, 1)"]),
    (Code.FINGERPRINT_RANGE, [f"INSERT INTO fingerprints VALUES ({A + 16}, 1)"]),
]

# What costs contents: the blocks of device a that are lost.
LOSSY_SQL: list[tuple[Code, list[str], list[int]]] = [
    (Code.EXTENT_KIND, [f"UPDATE extents SET kind = 3 WHERE first_block = {A + 5}"], [5, 6]),
    (
        Code.EXTENT_OVERLAP,
        [f"UPDATE extents SET first_block = {A + 2} WHERE first_block = {A + 5}"],
        [2, 3, 5, 6],
    ),
    (Code.EXTENT_TARGET, [f"UPDATE extents SET target = 1 WHERE first_block = {A + 5}"], [5, 6]),
    (
        Code.EXTENT_TARGET,
        [f"UPDATE extents SET target = 9999 WHERE first_block = {A}"],
        [0, 1, 2, 3],
    ),
    (
        Code.EXTENT_TARGET,
        [f"UPDATE extents SET target = {B + 8} WHERE first_block = {A + 13}"],
        [13, 14],
    ),
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RepairableStore:
    return make_repairable_store(tmp_path_factory.mktemp("original"))


@pytest.fixture
def store(original: RepairableStore, tmp_path: Path) -> RepairableStore:
    return original.copy(tmp_path / "store")


def repaired(store: RepairableStore, code: Code | None = None, deep: bool = False) -> RepairResult:
    """Repair a store, and show that nothing is left to find and that it opens."""
    result = repair(store.data_dir, None, store.upstream_dir, deep=deep)
    assert code is None or code in result.before.totals
    assert result.after is not None, result.notes
    assert result.after.findings == ()
    assert check(store.data_dir, None, store.upstream_dir, deep=True).findings == ()
    assert not [path for path in store.data_dir.iterdir() if path.suffix in (".new", ".repaired")]
    return result


def changed_blocks(store: RepairableStore) -> dict[str, list[int]]:
    """Open a store; return, by device, the blocks that do not show what they did."""
    found = {}
    for name, content in store.read().items():
        assert len(content) == len(store.contents[name])
        found[name] = [
            at // BLOCK
            for at in range(0, len(content), BLOCK)
            if content[at : at + BLOCK] != store.contents[name][at : at + BLOCK]
        ]
    return found


def test_repair_of_sound_store_changes_nothing(store: RepairableStore) -> None:
    before = {path.name: path.read_bytes() for path in store.data_dir.iterdir()}
    result = repair(store.data_dir, None, store.upstream_dir, deep=True)
    assert (result.after, result.kept, result.is_complete) == (None, (), True)
    assert {path.name: path.read_bytes() for path in store.data_dir.iterdir()} == before


@pytest.mark.parametrize(("code", "statements"), HARMLESS_SQL)
def test_repair_mends_without_loss(
    store: RepairableStore, code: Code, statements: list[str]
) -> None:
    plant(store.data_dir, statements)
    result = repaired(store, code)
    assert result.losses == ()
    assert result.is_complete
    assert changed_blocks(store) == {"a": [], "b": []}


@pytest.mark.parametrize(("code", "statements", "lost"), LOSSY_SQL)
def test_repair_lists_what_is_lost(
    store: RepairableStore, code: Code, statements: list[str], lost: list[int]
) -> None:
    plant(store.data_dir, statements)
    result = repaired(store, code, deep=True)
    assert not result.is_complete
    listed = {
        block
        for loss in result.losses
        for block in range(
            loss.offset_bytes // BLOCK, (loss.offset_bytes + loss.length_bytes) // BLOCK
        )
    }
    assert listed == set(lost)
    assert set(changed_blocks(store)["a"]) <= set(lost)
    assert changed_blocks(store)["b"] == []


def test_repair_of_short_cowdata_keeps_what_is_there(store: RepairableStore) -> None:
    with (store.data_dir / "cowdata").open("r+b") as file:
        file.truncate(6 * BLOCK + 17)
    result = repaired(store, Code.COWDATA_SHORT)
    assert result.losses == (Loss("b", 7 * BLOCK, BLOCK, LossReason.LOST),)
    assert changed_blocks(store) == {"a": [], "b": [7]}


def test_repair_writes_missing_or_damaged_label(store: RepairableStore) -> None:
    label = store.data_dir / "cowdata.id"
    for code in (Code.LABEL_MISSING, Code.LABEL_DAMAGED):
        if code == Code.LABEL_MISSING:
            label.unlink()
        else:
            label.write_bytes(b"\xff" * 90)
        assert repaired(store, code).is_complete
        assert changed_blocks(store) == {"a": [], "b": []}


def test_repair_writes_no_label_for_contents_of_another_store(store: RepairableStore) -> None:
    (store.data_dir / "cowdata.id").unlink()
    (store.data_dir / "cowdata").write_bytes(b"other" * 4096)
    result = repair(store.data_dir)
    assert result.after is None
    assert "another store" in result.notes[0]
    assert not (store.data_dir / "cowdata.id").exists()


def test_repair_goes_on_from_older_metadata(store: RepairableStore) -> None:
    identity = (store.data_dir / "cowdata.id").read_text()[8:40]
    write_label(store.data_dir, identity, 99)
    result = repaired(store, Code.LABEL_GENERATION)
    assert {loss.reason for loss in result.losses} == {LossReason.OLDER}
    assert {loss.device: loss.length_bytes for loss in result.losses} == {
        name: len(content) for name, content in UPSTREAMS.items()
    }
    assert changed_blocks(store) == {"a": [], "b": []}


@pytest.mark.parametrize(
    ("code", "damage"),
    [
        (Code.METADATA_MISSING, lambda store: (store / "metadata.db").unlink()),
        (Code.COWDATA_MISSING, lambda store: (store / "cowdata").unlink()),
        (Code.LABEL_STORE, lambda store: write_label(store, "f" * 32, 1)),
        (Code.DATABASE_FOREIGN, lambda store: plant(store, ["PRAGMA application_id = 1"])),
        (Code.DATABASE_VERSION, lambda store: plant(store, ["PRAGMA user_version = 99"])),
        (
            Code.DEVICE_VALUE,
            lambda store: plant(store, ["UPDATE devices SET size_bytes = -1 WHERE id = 1"]),
        ),
        (
            Code.DATABASE_UNREADABLE,
            lambda store: (store / "metadata.db").write_bytes(b"no database" * 4000),
        ),
    ],
)
def test_repair_leaves_what_it_cannot_help(
    store: RepairableStore, code: Code, damage: Callable[[Path], None]
) -> None:
    damage(store.data_dir)
    before = {path.name: path.read_bytes() for path in store.data_dir.iterdir()}
    result = repair(store.data_dir)
    assert code in result.before.totals
    assert result.after is None
    assert not result.is_complete
    assert {path.name: path.read_bytes() for path in store.data_dir.iterdir()} == before


def test_deep_repair_drops_wrong_hash_entry_and_lists_its_block(store: RepairableStore) -> None:
    with (store.data_dir / "cowdata").open("r+b") as file:
        file.seek(6 * BLOCK)
        file.write(b"\0")
    assert check(store.data_dir).is_clean
    result = repaired(store, Code.HASH_CONTENT, deep=True)
    assert Code.CHECKSUM_CONTENT in result.before.totals
    assert set(result.losses) == {
        Loss("b", 7 * BLOCK, BLOCK, LossReason.CHECKSUM),
        Loss("b", 7 * BLOCK, BLOCK, LossReason.HASH),
    }
    assert changed_blocks(store) == {"a": [], "b": [7]}


def test_deep_repair_lists_nothing_that_is_on_no_device(store: RepairableStore) -> None:
    with (store.data_dir / "cowdata").open("r+b") as file:
        file.seek(6 * BLOCK)
        file.write(b"\0")
    plant(
        store.data_dir,
        [
            f"INSERT INTO extents VALUES ({3 << 40}, 1, 1, 6), ({B + 20}, 1, 1, 6)",
            "DELETE FROM checksums",
        ],
    )
    result = repaired(store, Code.HASH_CONTENT, deep=True)
    assert result.losses == (Loss("b", 7 * BLOCK, BLOCK, LossReason.HASH),)


def test_repair_keeps_the_ranges_of_a_flush_that_was_cut(store: RepairableStore) -> None:
    ranges = [(A, 3), (A + 2, 1), (B + 7, 5), (3 << 40, 1)]
    rows = ", ".join(map(str, ranges))
    plant(store.data_dir, [f"INSERT INTO flushing VALUES {rows}", "DROP VIEW savings"])
    repaired(store, Code.SCHEMA_DIFFERS)
    with closing(connect(store.data_dir)) as connection:
        found = connection.execute("SELECT * FROM flushing").fetchall()
    assert found == [(A, 3), (B + 7, 1)]


def test_repair_takes_upstream_as_it_is_where_a_flush_was_cut_and_it_is_shown(
    store: RepairableStore,
) -> None:
    # Blocks 13 and 14 of a show blocks 0 and 1 of b; b shows all of these itself, too.
    plant(
        store.data_dir, [f"INSERT INTO flushing VALUES ({A + 3}, 2), ({B + 1}, 2), ({A + 14}, 1)"]
    )
    result = repaired(store, Code.FLUSHING_SHOWN)
    assert result.losses == tuple(
        Loss(name, first * BLOCK, BLOCK, LossReason.FLUSHING)
        for name, first in [("a", 4), ("a", 14), ("b", 1)]
    )
    with closing(connect(store.data_dir)) as connection:
        found = connection.execute("SELECT * FROM flushing").fetchall()
    assert found == [(A + 3, 1), (A + 14, 1), (B + 2, 1)]
    assert store.read() == store.contents


def test_repair_keeps_old_metadata_and_can_be_undone(store: RepairableStore) -> None:
    plant(store.data_dir, ["UPDATE cow SET refs = 7 WHERE first_block = 0"])
    old = (store.data_dir / "metadata.db").read_bytes()
    result = repaired(store)
    assert [path.name for path in result.kept][:1] == ["metadata.db.before-repair"]
    assert (store.data_dir / "metadata.db.before-repair").read_bytes() == old
    plant(store.data_dir, ["UPDATE cow SET refs = 7 WHERE first_block = 0"])
    again = repaired(store)
    assert again.kept[0].name == "metadata.db.before-repair-1"


def test_repair_takes_rows_from_an_unmerged_log(store: RepairableStore, tmp_path: Path) -> None:
    connection = connect(store.data_dir)
    try:
        connection.execute("UPDATE cow SET refs = 7 WHERE first_block = 0")
        copy = store.copy(tmp_path / "copy")
    finally:
        connection.close()
    assert (copy.data_dir / "metadata.db-wal").stat().st_size > 0
    result = repaired(copy, Code.COUNT_WRONG)
    assert (copy.data_dir / "metadata.db.before-repair-wal").exists()
    assert result.is_complete
    assert changed_blocks(copy) == {"a": [], "b": []}


def test_repair_removes_the_mark_of_a_failed_sync(store: RepairableStore) -> None:
    write_mark(Disk(), store.data_dir, "cowdata could not be synced")
    assert repair(store.data_dir).is_complete
    assert not has_mark(store.data_dir)


def test_repair_keeps_the_mark_when_it_cannot_help(store: RepairableStore) -> None:
    write_mark(Disk(), store.data_dir, "cowdata could not be synced")
    write_label(store.data_dir, "f" * 32, 1)
    assert not repair(store.data_dir).is_complete
    assert has_mark(store.data_dir)


def test_repair_of_store_in_use_or_missing_is_refused(
    store: RepairableStore, tmp_path: Path
) -> None:
    lock = DirectoryLock.acquire(store.data_dir, exclusive=False)
    try:
        with pytest.raises(StoreInUseError):
            repair(store.data_dir)
    finally:
        lock.release()
    with pytest.raises(NoStoreError):
        repair(tmp_path / "none")


def test_repair_writes_private_files(store: RepairableStore) -> None:
    plant(store.data_dir, ["UPDATE cow SET refs = 7 WHERE first_block = 0"])
    repaired(store)
    for path in store.data_dir.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
