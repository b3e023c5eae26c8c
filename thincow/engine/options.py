"""What a user may choose when a store is opened."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_HASH_TABLE_BYTES = 1 << 30
HASH_ENTRY_BYTES = 16
CHECKSUM_WIDTHS = (0, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes of caches and batches. Tests make them tiny so that rare branches run."""

    window_blocks: int = 4096
    """Blocks in one cached window of the map; fixed in the store when it is created."""
    cached_windows: int = 1024
    """Clean windows kept in memory, for each of map, counts and checksums."""
    commit_new_bytes: int = 256 << 20
    """Bytes of new content after which a commit is due."""
    commit_dirty_windows: int = 1024
    """Changed windows after which a commit is due."""
    commit_staged_hashes: int = 1 << 19
    """Hash entries waiting for the table after which a commit is due; of what is upstream, a commit
    takes half as many at a time, so that an fsync need not wait for more."""
    max_waiting_hints: int = 1 << 21
    """Hash entries of what is upstream that may wait for a commit that nobody waits for."""
    commit_interval_s: float = 5.0
    """Seconds after which changes are committed even if nobody asks."""
    max_reserve_bytes: int = 8 << 20
    """Most space kept back for the last commit on a full disk."""
    checkpoint_wal_bytes: int = 64 << 20
    """Size of the write-ahead log after which it is copied into the database."""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How to open a store.

    `block_size`, `checksum_bits`: None takes the store's own (4096 and 0 for a new one).
    `metadata_dir`: None keeps the metadata in memory.
    `upstream_dir`: None for a store whose devices all are without upstream.
    `upstream_file`: the only device, in place of a directory.
    `extra_devices`: devices without upstream to make when they are not there: name -> bytes.
    """

    data_dir: Path
    metadata_dir: Path | None
    upstream_dir: Path | None
    block_size: int | None = None
    hash_table_bytes: int = DEFAULT_HASH_TABLE_BYTES
    max_cow_blocks: int | None = None
    max_metadata_bytes: int | None = None
    checksum_bits: int | None = None
    retroactive: bool = False
    read_only: bool = False
    read_only_upstream: bool = False
    force: bool = False
    check: bool = False
    temp_dir: Path | None = None
    upstream_file: Path | None = None
    extra_devices: Mapping[str, int] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def is_there(self) -> bool:
        """Whether metadata are where they would be, so that the store knows its devices."""
        return self.metadata_dir is not None and (self.metadata_dir / "metadata.db").exists()


def hash_capacity(options: StoreOptions) -> int:
    """Return the number of hash entries that a store may keep; at least one."""
    return max(1, options.hash_table_bytes // HASH_ENTRY_BYTES)
