from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore
from tests.support.plain_store import plant
from tests.support.repairable_store import A, RepairableStore, make_repairable_store
from thincow.engine import deep_check, stored_blocks
from thincow.engine.findings import Code, NoProgress, Report
from thincow.engine.flush_order import FlushOrder
from thincow.engine.fsck import check
from thincow.store.disk import Disk


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> RepairableStore:
    return make_repairable_store(tmp_path_factory.mktemp("original"))


@pytest.fixture
def store(original: RepairableStore, tmp_path: Path) -> RepairableStore:
    return original.copy(tmp_path / "store")


@pytest.fixture(params=[1 << 22, 3], ids=["all at once", "little at once"])
def amounts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at much and at little at a time."""
    monkeypatch.setattr(deep_check, "ENTRIES_AT_ONCE", request.param)
    monkeypatch.setattr(stored_blocks, "READ_BYTES", min(8 << 20, 2 * BLOCK * request.param))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def places(report: Report) -> set[tuple[Code, str]]:
    return {(finding.code, finding.place) for finding in report.findings}


def test_deep_check_of_sound_store_finds_nothing(store: RepairableStore, amounts: None) -> None:
    report = check(store.data_dir, None, store.upstream_dir, deep=True)
    assert report.findings == ()
    assert report.facts["cow_blocks_read"] == 7
    assert report.facts["blocks_verified"] == 25
    assert report.facts["blocks_not_readable"] == 0


def test_deep_check_without_upstream_leaves_it_out(store: RepairableStore) -> None:
    report = check(store.data_dir, deep=True)
    assert report.is_clean
    assert 0 < report.facts["blocks_verified"] < 25
    assert report.facts["blocks_verified"] + report.facts["blocks_not_readable"] == 25


def test_deep_check_finds_changed_byte_of_cowdata(store: RepairableStore, amounts: None) -> None:
    flip(store.data_dir / "cowdata", BLOCK + 7)
    assert check(store.data_dir).is_clean
    report = check(store.data_dir, None, store.upstream_dir, deep=True)
    shown_at = [f"device a, byte {block * BLOCK}" for block in (1, 9, 11)]
    assert places(report) == {
        (code, place) for code in (Code.HASH_CONTENT, Code.CHECKSUM_CONTENT) for place in shown_at
    }


def test_deep_check_finds_it_without_checksums(store: RepairableStore, amounts: None) -> None:
    flip(store.data_dir / "cowdata", 6 * BLOCK)
    plant(store.data_dir, ["DELETE FROM checksums"])
    report = check(store.data_dir, deep=True)
    assert places(report) == {(Code.HASH_CONTENT, f"device b, byte {7 * BLOCK}")}
    assert report.findings[0].message == "COW block 6 is not what its hash entry says"


def test_deep_check_finds_it_without_hash_entries(store: RepairableStore) -> None:
    flip(store.data_dir / "cowdata", 6 * BLOCK)
    plant(store.data_dir, ["DELETE FROM hashes", "UPDATE globals SET value=0 WHERE key LIKE 'ha%'"])
    report = check(store.data_dir, deep=True)
    assert places(report) == {(Code.CHECKSUM_CONTENT, f"device b, byte {7 * BLOCK}")}


def test_deep_check_finds_changed_upstream(store: RepairableStore, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in store.upstream_dir.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    flip(changed / "a", 7 * BLOCK)
    found = places(check(store.data_dir, None, changed, deep=True))
    place = f"device a, byte {7 * BLOCK}"
    assert {(Code.HASH_CONTENT, place), (Code.CHECKSUM_CONTENT, place)} <= found


def test_deep_check_accepts_entry_of_a_block_used_again(store: RepairableStore) -> None:
    plant(
        store.data_dir,
        [
            "INSERT INTO hashes VALUES (77, 1, 2)",
            "UPDATE globals SET value = value + 1 WHERE key = 'hash_entries'",
        ],
    )
    assert check(store.data_dir, deep=True).is_clean


def test_deep_check_accepts_entry_of_a_free_block(new_store: NewStore) -> None:
    store = new_store(hash_table_bytes=1 << 20)
    store.add("a", "abcdef")
    store.open()
    for characters in ("1234", "5678", "9a3X", "YZ12"):
        store.write_blocks("a", 0, characters)
        store.engine.commit()
    store.close()
    assert check(store.data_dir, None, store.upstream_dir, deep=True).findings == ()


def test_deep_check_finds_unreadable_cowdata(
    store: RepairableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[[Disk, int, int, int], bytes] = Disk.read
    size = (store.data_dir / "cowdata").stat().st_size

    def read(self: Disk, fd: int, length: int, offset: int) -> bytes:
        if self.size(fd) == size and offset <= 2 * BLOCK < offset + length:
            raise OSError(5, "Input/output error")
        return original(self, fd, length, offset)

    monkeypatch.setattr(Disk, "read", read)
    report = check(store.data_dir, None, store.upstream_dir, deep=True)
    assert places(report) == {(Code.COWDATA_UNREADABLE, "COW block 2")}


def test_deep_check_goes_on_beside_a_damaged_map(store: RepairableStore) -> None:
    plant(store.data_dir, [f"UPDATE extents SET kind = 3 WHERE first_block = {A + 5}"])
    flip(store.data_dir / "cowdata", 0)
    found = {code for code, _ in places(check(store.data_dir, deep=True))}
    assert found == {Code.EXTENT_KIND, Code.HASH_CONTENT, Code.CHECKSUM_CONTENT}


def test_deep_check_tells_how_far_it_is(store: RepairableStore) -> None:
    told: dict[str, list[float]] = {}

    class Told(NoProgress):
        name = ""

        def stage(self, name: str) -> None:
            self.name = name

        def advance(self, part: float) -> None:
            told.setdefault(self.name, []).append(part)

    check(store.data_dir, deep=True, progress=Told())
    assert list(told) == [
        "contents of cowdata",
        "contents of hash entries",
        "contents of blocks with checksums",
    ]
    for parts in told.values():
        assert parts == sorted(parts)
        assert parts[-1] == 1


def test_deep_check_takes_no_entry_for_proof_when_some_were_lost(store: RepairableStore) -> None:
    flip(store.data_dir / "cowdata", 6 * BLOCK)
    plant(
        store.data_dir,
        ["DELETE FROM checksums", "INSERT OR REPLACE INTO globals VALUES ('entries_lost', 1)"],
    )
    report = check(store.data_dir, deep=True)
    assert report.is_clean
    assert report.facts["doubtful_blocks"] == 1


def entries_lost(store: EngineStore) -> bool:
    store.engine.commit()
    with store.engine.snapshot() as snapshot:
        return bool(snapshot.globals().get("entries_lost"))


def test_entry_that_a_flush_forgot_is_no_damage(new_store: NewStore) -> None:
    store = new_store()
    store.add("a", "abcd")
    store.add("b", "efgh")
    store.open()
    store.write_blocks("a", 0, "x")
    store.write_blocks("a", 0, "0")
    store.engine.commit()  # block 0 of cowdata is free, with the entry of x
    store.write_blocks("a", 1, "yy")
    store.write_blocks("b", 0, "y")
    assert not entries_lost(store)
    store.engine.flush.run(FlushOrder(names=frozenset("a")))
    store.write_blocks("a", 1, "zz")
    store.engine.flush.run(FlushOrder(names=frozenset("a")))
    assert store.places("b")[0] == "cow 0"
    assert entries_lost(store)
    store.close()
    report = check(store.data_dir, upstream_dir=store.upstream_dir, deep=True)
    assert report.is_clean
    store.open()
    store.engine.flush.run(FlushOrder())
    assert entries_lost(store)
    store.restart()
    assert not entries_lost(store)


def test_full_table_of_hashes_is_noted(new_store: NewStore) -> None:
    store = new_store(hash_table_bytes=64)
    store.add("a", "abcdefgh")
    store.open()
    store.write_blocks("a", 0, "xyz")
    assert not entries_lost(store)
    store.write_blocks("a", 3, "uvw")
    assert entries_lost(store)
