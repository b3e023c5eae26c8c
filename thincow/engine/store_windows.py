"""The window caches of the three tables that are held as arrays."""

from thincow.engine import checksums
from thincow.engine.options import Tuning
from thincow.engine.runs import CountCodec, Int64Array, ReferenceCodec
from thincow.engine.window_cache import WindowCache
from thincow.store import checksums_table, cow_table, extents_table
from thincow.store.connection import Connection


def open_windows(
    reader: Connection, window_blocks: int, tuning: Tuning
) -> tuple[WindowCache, WindowCache, WindowCache]:
    """Return the caches of references, counts and checksums."""
    references, counts = ReferenceCodec(), CountCodec()

    def load_references(first_block: int, length: int) -> Int64Array:
        values = references.default(first_block, length)
        extents_table.load_window(reader, first_block, values)
        return values

    def load_counts(first_block: int, length: int) -> Int64Array:
        values = counts.default(first_block, length)
        cow_table.load_window(reader, first_block, values)
        return values

    def load_checksums(first_block: int, length: int) -> Int64Array:
        values = checksums.default_window(length)
        checksums_table.load_window(reader, first_block, values)
        return values

    def last_extent(first_block: int, end_block: int) -> int | None:
        return extents_table.last_before(reader, first_block, end_block)

    def last_chunk(first_block: int, end_block: int) -> int | None:
        return checksums_table.last_before(reader, first_block, end_block)

    capacity = tuning.cached_windows
    return (
        WindowCache(load_references, window_blocks, capacity, last_extent),
        WindowCache(load_counts, window_blocks, capacity),
        WindowCache(load_checksums, window_blocks, capacity, last_chunk),
    )
