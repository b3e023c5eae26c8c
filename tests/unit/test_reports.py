import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.plain_store import BLOCK_SIZE, A, make_store, plant
from thincow.engine.device import Device
from thincow.engine.flush_control import FlushControl
from thincow.engine.flush_source import Source
from thincow.engine.held_blocks import HeldBlocks
from thincow.engine.reports import (
    PIECE_CHARACTERS,
    cow_text,
    extents_text,
    hash_table_text,
    stats_full_text,
    stats_text,
)
from thincow.engine.statistics import Statistics
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.snapshot import Snapshot

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "stats.md"


@dataclass
class FixedSource:
    """An engine that does nothing: the numbers of the store of `plain_store`."""

    block_size: int = BLOCK_SIZE
    devices: tuple[Device, ...] = (
        Device(DeviceRow(1, "a", 39936, "file", 10, 0), None, BLOCK_SIZE),
        Device(DeviceRow(2, "b", 16384, "block", None, None), None, BLOCK_SIZE),
    )
    statistics: Statistics = field(
        default_factory=lambda: Statistics(
            blocks_written=8,
            blocks_zero=1,
            blocks_dedup_hash=2,
            blocks_dedup_run=3,
            blocks_new=2,
        )
    )

    holds: HeldBlocks = field(default_factory=lambda: HeldBlocks(lambda _runs: None))
    flush: FlushControl = field(
        default_factory=lambda: FlushControl(None, (), Source(Disk(), -1, {}, BLOCK_SIZE))
    )

    def cow_usage(self) -> tuple[int, int, int, int]:
        return 5, 2, 3, 4

    def hash_usage(self) -> tuple[int, int]:
        return 4, 64


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return make_store(tmp_path / "store")


@pytest.fixture
def snapshot(store: Path) -> Iterator[Snapshot]:
    with Snapshot.open_offline(store / "metadata.db") as opened:
        yield opened


def values(text: str) -> dict[str, str]:
    pairs = [line.rsplit(": ", 1) for line in text.splitlines()]
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_stats_show_counters() -> None:
    source = FixedSource()
    source.devices[0].stats.fuse_reads = 11
    shown = values(stats_text(source))
    source.devices[0].stats.fuse_reads = 0
    assert shown["Block size"] == "4096"
    assert shown["Total blocks"] == "14"
    assert shown["Total bytes"] == str(39936 + 16384)
    assert shown["Device a first address"] == str(A)
    assert shown["Device a size"] == "39936"
    assert shown["Device a FUSE reads"] == "11"
    assert shown["Device b type"] == "block"
    assert shown["Blocks deduplicated"] == "6"
    assert shown["Blocks deduplicated percent"] == "75.00"
    assert shown["Hash table occupancy percent"] == "6.25"
    assert shown["COW store bytes"] == str(3 * 4096)
    assert shown["COW store free blocks"] == "2"


def test_full_stats_show_what_the_store_holds(snapshot: Snapshot) -> None:
    shown = values(stats_full_text(FixedSource(), snapshot))
    assert shown["Device a blocks original"] == "4"
    assert shown["Device a blocks original percent"] == "40.00"
    assert shown["Device a blocks remapped"] == "2"
    assert shown["Device a blocks COW"] == "3"
    assert shown["Device a blocks zero"] == "1"
    assert shown["Device b extents"] == "1"
    assert shown["Blocks COW"] == "4"
    assert shown["Extents"] == "5"
    assert shown["COW store blocks"] == "3"
    assert shown["COW store end"] == str(5 * 4096)
    assert shown["COW store references"] == "4"
    assert shown["Savings upstream blocks"] == "2"
    assert shown["Savings COW blocks"] == "1"
    assert shown["Savings zero bytes"] == "4096"
    assert shown["Savings total blocks"] == "4"


def test_full_stats_have_all_quick_lines_in_the_same_order(snapshot: Snapshot) -> None:
    quick = values(stats_text(FixedSource()))
    full = values(stats_full_text(FixedSource(), snapshot))
    assert [key for key in full if key in quick] == list(quick)
    assert {key: full[key] for key in quick} == quick


def test_stats_of_nothing_divide_nothing_by_nothing() -> None:
    source = FixedSource(devices=(), statistics=Statistics())
    assert values(stats_text(source))["Blocks deduplicated percent"] == "0.00"


def test_every_line_of_the_stats_is_documented(snapshot: Snapshot) -> None:
    text = DOCUMENT.read_text()
    shown = values(stats_full_text(FixedSource(), snapshot))
    keys = {re.sub(r"^Device [ab] ", "Device NAME ", key) for key in shown}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_extents_text_is_what_the_view_says(snapshot: Snapshot) -> None:
    lines = "".join(extents_text(snapshot)).splitlines()
    assert lines == [
        "device\toffset_bytes\tlength_bytes\tkind\ttarget_device\ttarget_offset_bytes",
        "a\t0\t8192\tcow\t-\t0",
        "a\t8192\t4096\tzero\t-\t-",
        "a\t12288\t4096\tcow\t-\t4096",
        "a\t16384\t8192\tupstream\tb\t0",
        "b\t0\t4096\tcow\t-\t16384",
    ]


def test_cow_text_lists_runs(snapshot: Snapshot) -> None:
    lines = "".join(cow_text(snapshot)).splitlines()
    assert lines == [
        "offset_bytes\tlength_bytes\treferences",
        "0\t4096\t1",
        "4096\t4096\t2",
        "16384\t4096\t1",
    ]


def test_hash_table_text_lists_entries(snapshot: Snapshot) -> None:
    lines = "".join(hash_table_text(snapshot)).splitlines()
    assert lines == [
        "hash\tkind\ttarget_device\ttarget_offset_bytes",
        "fffffffffffffff9\tcow\t-\t16384",
        "0000000000000005\tupstream\tb\t4096",
        "0000000000000009\tcow\t-\t12288",
        "000000000000000b\tzero\t-\t-",
    ]


def test_long_listings_come_in_pieces(store: Path) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 20 UNION ALL SELECT i + 1 FROM n LIMIT 20000)"
    plant(store, [f"INSERT INTO hashes {numbers} SELECT i, 1, i FROM n"])
    with Snapshot.open_offline(store / "metadata.db") as snapshot:
        pieces = list(hash_table_text(snapshot))
    assert sum(piece.count("\n") for piece in pieces) == 1 + 4 + 20000
    assert len(pieces) > 5
    assert max(map(len, pieces)) < PIECE_CHARACTERS + 100
    assert pieces[-1].endswith(f"\tcow\t-\t{20019 * BLOCK_SIZE}\n")
