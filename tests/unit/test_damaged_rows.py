"""What an open store does about rows that cannot be: one clear error, never another exception."""

from pathlib import Path

import pytest

from tests.support.engines import letters, read_all, write_all
from tests.support.plain_store import plant, write_label
from tests.support.repairable_store import A, RepairableStore, make_repairable_store
from thincow.engine import committer
from thincow.engine.engine import open_engine
from thincow.engine.repair import repair
from thincow.errors import BlockReadError, CorruptStoreError, StoreFailedError, ThincowError

PAGE = 4096


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RepairableStore:
    return make_repairable_store(tmp_path_factory.mktemp("original"))


@pytest.fixture
def store(original: RepairableStore, tmp_path: Path) -> RepairableStore:
    return original.copy(tmp_path / "store")


def use(store: RepairableStore) -> None:
    engine = open_engine(store.options())
    try:
        device = engine.devices[0]
        write_all(engine, device, 0, letters("ABCD"))
        read_all(engine, device, 0, device.size_bytes)
        engine.commit()
    finally:
        engine.close()


def swap_types(store: RepairableStore, table: str, *columns: str) -> None:
    """Let a table hold what its schema forbids, as a damaged page can."""
    names = ", ".join(f"'x' || {name}" for name in columns)
    plant(
        store.data_dir,
        [
            "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = '{table}'",
            "PRAGMA writable_schema = RESET",
            f"UPDATE {table} SET ({', '.join(columns)}) = ({names})",
            "PRAGMA writable_schema = ON",
            f"UPDATE sqlite_schema SET sql = rtrim(sql) || ' STRICT' WHERE name = '{table}'",
        ],
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE devices SET size_bytes = -5 WHERE id = 2",
        "UPDATE devices SET type = 'pipe' WHERE id = 2",
        "UPDATE devices SET id = 1 << 50 WHERE id = 2",
    ],
)
def test_device_that_cannot_be_is_refused(store: RepairableStore, statement: str) -> None:
    plant(store.data_dir, [statement])
    with pytest.raises(CorruptStoreError, match="devices holds what cannot be"):
        open_engine(store.options())


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("extents", "target"),
        ("hashes", "target"),
        ("checksums", "present"),
        ("fingerprints", "hash"),
        ("devices", "inode"),
        ("cow", "refs"),
    ],
)
def test_value_of_a_wrong_type_is_refused(store: RepairableStore, table: str, column: str) -> None:
    swap_types(store, table, column)
    with pytest.raises((CorruptStoreError, StoreFailedError), match="is damaged"):
        use(store)


def test_counts_past_the_end_of_cowdata_are_refused(store: RepairableStore) -> None:
    size = (store.data_dir / "cowdata").stat().st_size
    plant(store.data_dir, [f"INSERT INTO cow VALUES ({1 << 60}, 1, 1)"])
    with pytest.raises(CorruptStoreError, match="cowdata has"):
        open_engine(store.options())
    assert (store.data_dir / "cowdata").stat().st_size == size


def test_counts_of_negative_blocks_are_refused(store: RepairableStore) -> None:
    plant(store.data_dir, ["DELETE FROM cow", f"INSERT INTO cow VALUES ({-(1 << 63)}, 1, 1)"])
    with pytest.raises(CorruptStoreError, match="cowdata has"):
        open_engine(store.options())


def test_counts_that_overlap_are_refused(store: RepairableStore) -> None:
    plant(store.data_dir, ["INSERT INTO cow VALUES (1, 1, 1)"])
    with pytest.raises(CorruptStoreError, match="count of COW block 1 cannot be"):
        open_engine(store.options())


def test_commit_goes_on_without_free_blocks_that_cannot_be_found(
    store: RepairableStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(committer, "_SCAN_ROWS", 2)
    plant(store.data_dir, ["INSERT INTO cow VALUES (5, 1, 1)"])
    engine = open_engine(store.options())
    write_all(engine, engine.devices[0], 4 * 512, letters("0"))
    engine.commit()
    assert "cannot be found" in caplog.text
    assert not engine.is_dirty
    engine.close()


@pytest.mark.parametrize("rows", [f"({A}, 0)", f"({A}, 3), ({A + 2}, 1)", "(-1, 1)"])
def test_ranges_of_a_flush_that_cannot_be_are_refused(store: RepairableStore, rows: str) -> None:
    plant(store.data_dir, [f"INSERT INTO flushing VALUES {rows}"])
    with pytest.raises(CorruptStoreError, match="flushing holds what cannot be"):
        open_engine(store.options())


def test_extent_past_the_end_of_cowdata_cannot_be_read(store: RepairableStore) -> None:
    plant(
        store.data_dir,
        [f"UPDATE extents SET target = {(1 << 62) - 9} WHERE first_block = {A}"],
    )
    engine = open_engine(store.options())
    try:
        with pytest.raises(BlockReadError):
            read_all(engine, engine.devices[0], 0, 512)
        rest = read_all(engine, engine.devices[0], 4 * 512, 12 * 512)
        assert rest == store.contents["a"][4 * 512 :]
    finally:
        engine.close()


def test_counts_that_are_too_low_end_in_no_commit(store: RepairableStore) -> None:
    plant(store.data_dir, ["DELETE FROM cow WHERE first_block = 0"])
    engine = open_engine(store.options())
    device = engine.devices[0]
    with pytest.raises(StoreFailedError, match="counts of references are wrong"):
        write_all(engine, device, 0, letters("0000"))
    with pytest.raises(StoreFailedError):
        engine.commit()
    assert engine.failed
    engine.close()


def test_label_of_a_commit_that_cannot_be_is_damaged(store: RepairableStore) -> None:
    identity = (store.data_dir / "cowdata.id").read_text()[8:40]
    write_label(store.data_dir, identity, 10**19)
    with pytest.raises(CorruptStoreError, match="is damaged"):
        open_engine(store.options())
    assert repair(store.data_dir).is_complete
    assert store.read() == store.contents


def test_error_is_one_line() -> None:
    assert str(CorruptStoreError("main\nTree 6:  bad\n")) == "main Tree 6:  bad"
    assert str(ThincowError("as it is")) == "as it is"


def test_broken_structure_is_told_in_one_line(store: RepairableStore) -> None:
    plant(store.data_dir, ["UPDATE globals SET value = 0 WHERE key = 'clean'"])
    path = store.data_dir / "metadata.db"
    content = bytearray(path.read_bytes())
    at = content.index(A.to_bytes(6)) // PAGE * PAGE
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(CorruptStoreError) as caught:
        open_engine(store.options())
    assert len(str(caught.value).splitlines()) == 1
    assert "thincow fsck" in str(caught.value)
