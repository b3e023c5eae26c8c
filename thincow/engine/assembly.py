"""Builds the parts of an engine over an open store, and does nothing else."""

from dataclasses import dataclass

from thincow.block_types import DEVICE_SHIFT
from thincow.engine.block_map import BlockMap
from thincow.engine.block_reader import BlockReader
from thincow.engine.block_writer import BlockWriter
from thincow.engine.checksums import Checksums
from thincow.engine.committer import Committer
from thincow.engine.contents import Contents
from thincow.engine.cow_store import CowStore
from thincow.engine.deduplication import Deduplication
from thincow.engine.epoch import EpochParts
from thincow.engine.flush_control import FlushControl, flush_source
from thincow.engine.flush_steps import FlushTools
from thincow.engine.hash_index import HashIndex
from thincow.engine.open_store import OpenStore
from thincow.engine.options import StoreOptions, hash_capacity
from thincow.engine.resize import Resizer
from thincow.engine.seen_blocks import SeenBlocks
from thincow.engine.space_watch import SpaceWatch
from thincow.engine.statistics import Statistics
from thincow.engine.store_windows import open_windows
from thincow.engine.upstream_state import UpstreamState
from thincow.engine.window_cache import WindowCache
from thincow.store import cow_table
from thincow.store.disk import Disk


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts that an engine talks to. `committer` is None for a read-only store."""

    windows: tuple[WindowCache, ...]
    block_map: BlockMap
    cow: CowStore
    contents: Contents
    hashes: HashIndex
    reader: BlockReader
    resizer: Resizer
    upstream: UpstreamState
    watch: SpaceWatch
    committer: Committer | None
    flush: FlushControl


def assemble(
    store: OpenStore, options: StoreOptions, disk: Disk, statistics: Statistics
) -> Assembly:
    """Build all parts; `statistics` is where they count."""
    reader = store.database.reader
    block_size = store.facts.block_size
    windows = references, counts, sums = open_windows(
        reader, store.facts.window_blocks, options.tuning
    )
    end_block = cow_table.end_block(reader)
    cow = CowStore(store.cow_file, counts, block_size, end_block, options.max_cow_blocks)
    by_id = {device.id: device for device in store.devices}
    block_map = BlockMap(references, cow, lambda address: by_id[address >> DEVICE_SHIFT].own_end)
    upstream = UpstreamState(store.marks)
    contents = Contents(disk, by_id, cow, upstream, block_size)
    hashes = HashIndex(
        reader,
        block_size,
        hash_capacity(options),
        store.facts.hash_entries,
        max_hints=options.tuning.max_waiting_hints,
        max_in_commit=max(1, options.tuning.commit_staged_hashes // 2),
    )
    bits = store.facts.checksum_bits
    checksums = Checksums(sums, bits, keeps_new=not options.read_only) if bits else None
    seen = SeenBlocks()
    noted = None if options.read_only else hashes
    blocks = BlockReader(block_map, contents, noted, seen, checksums, statistics, block_size)
    watch = SpaceWatch(disk, store.paths.directories, store.reserve, options.tuning)
    committer = tools = None
    source = flush_source(disk, store)
    if store.label is not None:
        parts = EpochParts(block_map, cow, hashes, checksums, upstream)
        committer = Committer(disk, store, store.label, parts, statistics, watch)
        if not options.read_only_upstream and (store.paths.database or options.force):
            tools = FlushTools(disk, reader, committer, parts, contents, source)
    deduplication = Deduplication(
        block_map, contents, hashes, seen, block_size, retroactive=options.retroactive
    )
    writer = BlockWriter(
        block_map,
        cow,
        blocks,
        deduplication,
        hashes,
        checksums,
        statistics,
        block_size,
    )
    return Assembly(
        windows=windows,
        block_map=block_map,
        cow=cow,
        contents=contents,
        hashes=hashes,
        reader=blocks,
        resizer=Resizer(block_map, blocks, writer, checksums, upstream, block_size),
        upstream=upstream,
        watch=watch,
        committer=committer,
        flush=FlushControl(tools, store.devices, source),
    )
