"""The texts that a mount shows: statistics, and listings of its tables.

Owns the keys of the statistics and the columns of the listings; they are part of the user
interface (docs/stats.md), so keys keep their spelling and order. The quick text only reads
counters; the full one and the listings read a snapshot, and may do so in another thread.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from thincow.block_types import DEVICE_SHIFT, MAX_DEVICE_BLOCKS, Kind
from thincow.engine.device import Device
from thincow.engine.flush_control import FlushControl
from thincow.engine.held_blocks import HeldBlocks
from thincow.engine.statistics import Statistics
from thincow.errors import CorruptStoreError
from thincow.store.columns import CowUse, MapUse
from thincow.store.snapshot import Snapshot

PIECE_CHARACTERS: Final = 1 << 16

Value = int | str
Lines = list[tuple[str, Value]]


class Source(Protocol):
    """The engine, as far as reports look at it."""

    @property
    def block_size(self) -> int:
        """Bytes in a block."""

    @property
    def devices(self) -> tuple[Device, ...]:
        """The devices that are served."""

    @property
    def statistics(self) -> Statistics:
        """Counters since the mount."""

    def cow_usage(self) -> tuple[int, int, int, int]:
        """Return the end, free and live blocks of the COW store, and references to them."""

    @property
    def flush(self) -> FlushControl:
        """What flushes are doing."""

    @property
    def holds(self) -> HeldBlocks:
        """Who looks at earlier commits, and which blocks they keep from being used again."""

    def hash_usage(self) -> tuple[int, int]:
        """Return the number of hash entries and the most there may be."""


def stats_text(source: Source) -> str:
    """Return the quick statistics: counters only, nothing is scanned."""
    end, free, live, references = source.cow_usage()
    lines = _general(source)
    for device in source.devices:
        lines += _device(device)
    lines += _hash_table(source)
    lines += _written(source.statistics)
    lines += _cow_store(source.block_size, CowUse(live, references, end), free)
    lines += _running(source)
    return _render(lines)


def stats_full_text(source: Source, snapshot: Snapshot) -> str:
    """Return the complete statistics; `snapshot` shows the block map of one commit."""
    block_size = source.block_size
    cow = snapshot.cow_use()
    uses = [snapshot.map_use(device.id, device.own_end) for device in source.devices]
    total = MapUse(
        sum(use.extents for use in uses),
        sum(use.original for use in uses),
        sum(use.remapped for use in uses),
        sum(use.cow for use in uses),
        sum(use.zero for use in uses),
    )
    lines = _general(source)
    for device, use in zip(source.devices, uses, strict=True):
        lines += _device(device)
        lines += _map_use(f"Device {device.name} blocks", device.blocks, use)
        lines.append((f"Device {device.name} extents", use.extents))
    lines += _map_use("Blocks", sum(device.blocks for device in source.devices), total)
    lines.append(("Extents", total.extents))
    lines += _hash_table(source)
    lines += _written(source.statistics)
    lines += _cow_store(block_size, cow, cow.end - cow.live)
    lines += _running(source)
    saved = {"upstream": total.remapped, "COW": cow.references - cow.live, "zero": total.zero}
    for name, blocks in (saved | {"total": sum(saved.values())}).items():
        lines.append((f"Savings {name} blocks", blocks))
        lines.append((f"Savings {name} bytes", blocks * block_size))
    return _render(lines)


def extents_text(snapshot: Snapshot) -> Iterator[str]:
    """Yield the block map in pieces: the columns of the view `extent_list`, one extent a line."""
    columns = "device offset_bytes length_bytes kind target_device target_offset_bytes"
    return _in_pieces(columns, _extent_lines(snapshot))


def cow_text(snapshot: Snapshot) -> Iterator[str]:
    """Yield the reference counts in pieces: a line for each run of blocks with equal counts."""
    return _in_pieces("offset_bytes length_bytes references", _cow_lines(snapshot))


def hash_table_text(snapshot: Snapshot) -> Iterator[str]:
    """Yield the hash entries in pieces, one a line."""
    return _in_pieces("hash kind target_device target_offset_bytes", _hash_lines(snapshot))


def _general(source: Source) -> Lines:
    return [
        ("Block size", source.block_size),
        ("Devices", len(source.devices)),
        ("Total blocks", sum(device.blocks for device in source.devices)),
        ("Total bytes", sum(device.size_bytes for device in source.devices)),
    ]


def _device(device: Device) -> Lines:
    stats = device.stats
    figures: Lines = [
        ("type", device.type),
        ("size", device.size_bytes),
        ("blocks", device.blocks),
        ("first address", device.first_block),
        ("upstream reads", stats.upstream_reads),
        ("upstream read errors", stats.upstream_read_errors),
        ("flush writes", stats.flush_writes),
        ("flush blocks equal", stats.flush_equal),
        ("flush errors", stats.flush_errors),
        ("FUSE reads", stats.fuse_reads),
        ("FUSE writes", stats.fuse_writes),
    ]
    return [(f"Device {device.name} {key}", value) for key, value in figures]


def _map_use(prefix: str, blocks: int, use: MapUse) -> Lines:
    figures = {
        "original": use.original,
        "remapped": use.remapped,
        "zero": blocks - use.original - use.remapped - use.cow,
        "COW": use.cow,
    }
    lines: Lines = []
    for name, number in figures.items():
        lines += _with_percent(f"{prefix} {name}", number, blocks)
    return lines


def _hash_table(source: Source) -> Lines:
    entries, capacity = source.hash_usage()
    return [
        ("Hash table entries", entries),
        ("Hash table capacity", capacity),
        ("Hash table occupancy percent", _percent(entries, capacity)),
    ]


def _written(stats: Statistics) -> Lines:
    ways = {
        "by hash": stats.blocks_dedup_hash,
        "by run extension": stats.blocks_dedup_run,
        "zero": stats.blocks_zero,
        "retroactive": stats.blocks_dedup_retroactive,
    }
    written = stats.blocks_written
    lines: Lines = [("Blocks written", written), ("Blocks stored", stats.blocks_new)]
    lines += _with_percent("Blocks deduplicated", sum(ways.values()), written)
    for way, number in ways.items():
        lines += _with_percent(f"Blocks deduplicated {way}", number, written)
    lines.append(("Checksum errors", stats.checksum_errors))
    lines.append(("Commits", stats.commits))
    return lines


def _cow_store(block_size: int, use: CowUse, free: int) -> Lines:
    return [
        ("COW store blocks", use.live),
        ("COW store bytes", use.live * block_size),
        ("COW store free blocks", free),
        ("COW store end", use.end * block_size),
        ("COW store references", use.references),
    ]


def _running(source: Source) -> Lines:
    purposes = source.holds.purposes
    return [
        ("COW store held blocks", source.holds.kept_blocks),
        ("Running backups", purposes.count("backup")),
        ("Running checks", purposes.count("check")),
        ("Running diffs", purposes.count("diff")),
        ("Running flushes", int(source.flush.is_running)),
    ]


def _with_percent(key: str, number: int, whole: int) -> Lines:
    return [(key, number), (f"{key} percent", _percent(number, whole))]


def _percent(number: int, whole: int) -> str:
    return f"{100 * number / whole:.2f}" if whole else "0.00"


def _render(lines: Lines) -> str:
    return "".join(f"{key}: {value}\n" for key, value in lines)


class _Places:
    """Puts references into the words of the listings: device name and byte offset."""

    def __init__(self, snapshot: Snapshot) -> None:
        block_size = snapshot.globals().get("block_size")
        if not isinstance(block_size, int):
            raise CorruptStoreError("globals.block_size is no number: run 'thincow fsck'")
        self.block_size = block_size
        self._names = {device.id: device.name for device in snapshot.devices()}

    def virtual(self, address: int) -> str:
        """Return device and offset of a block address."""
        name = self._names.get(address >> DEVICE_SHIFT, "?")
        return f"{name}\t{(address & (MAX_DEVICE_BLOCKS - 1)) * self.block_size}"

    def content(self, kind: int, target: int) -> str:
        """Return kind, device and offset of a reference; what does not apply is `-`."""
        if kind == Kind.UPSTREAM:
            return f"upstream\t{self.virtual(target)}"
        if kind == Kind.COW:
            return f"cow\t-\t{target * self.block_size}"
        return "zero\t-\t-"


def _extent_lines(snapshot: Snapshot) -> Iterator[str]:
    places = _Places(snapshot)
    for chunk in snapshot.extents():
        for first, length, kind, target in zip(*(c.tolist() for c in chunk), strict=True):
            size = length * places.block_size
            yield f"{places.virtual(first)}\t{size}\t{places.content(kind, target)}\n"


def _cow_lines(snapshot: Snapshot) -> Iterator[str]:
    size = _Places(snapshot).block_size
    for chunk in snapshot.cow():
        for first, length, refs in zip(*(c.tolist() for c in chunk), strict=True):
            yield f"{first * size}\t{length * size}\t{refs}\n"


def _hash_lines(snapshot: Snapshot) -> Iterator[str]:
    places = _Places(snapshot)
    for chunk in snapshot.hashes():
        for value, kind, target in zip(*(c.tolist() for c in chunk), strict=True):
            yield f"{value & (1 << 64) - 1:016x}\t{places.content(kind, target)}\n"


def _in_pieces(columns: str, lines: Iterable[str]) -> Iterator[str]:
    """Put a line with the names of the columns in front, and join lines to larger pieces."""
    piece = [columns.replace(" ", "\t") + "\n"]
    size = len(piece[0])
    for line in lines:
        piece.append(line)
        size += len(line)
        if size >= PIECE_CHARACTERS:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)
