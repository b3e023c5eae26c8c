"""Typed SQL of the tables `devices` and `fingerprints`: upstreams, and what is shown of them."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from typing import Final

import apsw

from thincow.block_types import MAX_DEVICE_ID
from thincow.store.bulk import damaged, fetch_integers, fetch_rows


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device.

    The first part is upstream's: its size in bytes, `inode` and `mtime_ns`, None for block
    devices. `type` is file, block, or none where there is no upstream. The second part is what is
    shown in its place, None where nothing but upstream is:

    * `virtual_bytes`: the size;
    * `shown_blocks`: blocks of upstream that may be shown; those after them were cut, and are
      zero where they have no extent;
    * `flush_bytes`: the size that a flush is giving upstream;
    * `mode`, `uid`, `gid`, `modified_ns`: permissions, owner, modification time.
    """

    id: int
    name: str
    size_bytes: int
    type: str
    inode: int | None
    mtime_ns: int | None
    virtual_bytes: int | None = None
    shown_blocks: int | None = None
    flush_bytes: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    modified_ns: int | None = None

    @property
    def seen_bytes(self) -> int:
        """Size of the device as it is shown."""
        return self.size_bytes if self.virtual_bytes is None else self.virtual_bytes

    def seen_blocks(self, block_size: int) -> int:
        """Return the number of blocks of the device as it is shown."""
        return -(-self.seen_bytes // block_size)

    def upstream_blocks(self, block_size: int) -> int:
        """Return the number of blocks of upstream."""
        return -(-self.size_bytes // block_size)

    def own_blocks(self, block_size: int) -> int:
        """Return how many blocks without an extent show upstream; those after them are zero."""
        most = min(self.upstream_blocks(block_size), self.seen_blocks(block_size))
        return most if self.shown_blocks is None else min(most, self.shown_blocks)

    def normal(self, block_size: int) -> "DeviceRow":
        """Return the row without sizes that are so anyway."""
        virtual_bytes, shown_blocks = self.virtual_bytes, self.shown_blocks
        if virtual_bytes == self.size_bytes:
            virtual_bytes = None
        if shown_blocks is not None and shown_blocks >= self.upstream_blocks(block_size):
            shown_blocks = None
        return replace(self, virtual_bytes=virtual_bytes, shown_blocks=shown_blocks)

    @property
    def needs_resize(self) -> bool:
        """Whether a flush has to change the size of upstream, or to finish changing it."""
        sizes = (self.virtual_bytes, self.shown_blocks, self.flush_bytes)
        return any(size is not None for size in sizes)


def is_device_name(name: str) -> bool:
    """Tell whether a device may have a name: that of a file, and one that can be shown."""
    return name not in ("", ".", "..") and "/" not in name and name.isprintable()


COLUMNS: Final = ", ".join(field.name for field in fields(DeviceRow))
_PLACES: Final = ", ".join("?" for _ in fields(DeviceRow))
TYPES: Final = ("file", "block", "none")
_INT64: Final = (-(1 << 63), (1 << 63) - 1)
_SIZE: Final = (0, (1 << 63) - 1)
_USER: Final = (0, (1 << 32) - 1)
_NUMBERS: Final = {
    "id": (1, MAX_DEVICE_ID),
    "size_bytes": _SIZE,
    "inode": _INT64,
    "mtime_ns": _INT64,
    "virtual_bytes": _SIZE,
    "shown_blocks": _SIZE,
    "flush_bytes": _SIZE,
    "mode": (0, 0o7777),
    "uid": _USER,
    "gid": _USER,
    "modified_ns": _INT64,
}


def load(db: apsw.Connection) -> list[DeviceRow]:
    """Return all devices ever seen, by id.

    Raises:
        CorruptStoreError: when a row cannot be right.
    """
    query = f"SELECT {COLUMNS} FROM devices ORDER BY id"
    rows = [DeviceRow(*values) for values in fetch_rows(db, query)]
    if not all(map(has_sane_values, rows)):
        raise damaged("the table devices holds what cannot be")
    return rows


def has_sane_values(row: DeviceRow) -> bool:
    """Tell whether every value of a row can be right, whatever a damaged database put there."""
    text: tuple[object, ...] = (row.name, row.type)
    if not isinstance(text[0], str) or text[1] not in TYPES:
        return False
    for name, (low, high) in _NUMBERS.items():
        value: object = getattr(row, name)
        if value is None and name not in ("id", "size_bytes"):
            continue
        if not isinstance(value, int) or not low <= value <= high:
            return False
    return True


def store(db: apsw.Connection, rows: Iterable[DeviceRow]) -> None:
    """Insert or replace devices."""
    for row in rows:
        db.execute(
            f"INSERT OR REPLACE INTO devices({COLUMNS}) VALUES ({_PLACES})",
            astuple(row),
        )


def load_fingerprints(db: apsw.Connection) -> dict[int, int]:
    """Return the sampled contents of upstream: block address -> signed hash."""
    rows = fetch_integers(db, "SELECT block, hash FROM fingerprints ORDER BY block")
    return {row[0]: row[1] for row in rows}


def update_fingerprints(db: apsw.Connection, hashes: dict[int, int]) -> None:
    """Change the hashes of blocks that have a fingerprint; others get none."""
    for block, value in hashes.items():
        db.execute("UPDATE fingerprints SET hash = ? WHERE block = ?", (value, block))


def store_fingerprints(
    db: apsw.Connection, first_block: int, end_block: int, hashes: dict[int, int]
) -> None:
    """Replace the fingerprints of the addresses from `first_block` to before `end_block`."""
    db.execute("DELETE FROM fingerprints WHERE block >= ? AND block < ?", (first_block, end_block))
    for block, value in hashes.items():
        assert first_block <= block < end_block
        db.execute("INSERT INTO fingerprints(block, hash) VALUES (?, ?)", (block, value))
