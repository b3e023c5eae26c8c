"""One virtual device: an upstream device as the store knows and serves it, or one without."""

from dataclasses import replace

from thincow.block_types import MAX_DEVICE_BLOCKS, first_address
from thincow.engine.statistics import DeviceStatistics
from thincow.store.devices_table import DeviceRow
from thincow.store.upstream import Upstream


class Device:
    """A device that requests may name.

    `upstream` is None when there is none, and while it is missing: then the device has no place
    in the tree, but others may refer to its blocks, which cannot be read.

    Attributes:
        size_bytes: as it is shown.
        blocks, end_block: of the virtual device; the address after its last block.
        own_end: blocks from this address on do not show their own place upstream: without an
            extent they are zero.
        upstream_end: the address after the last block of upstream.
        readable_bytes: how much of upstream may be read: what a flush is about to cut off is zero.
    """

    def __init__(self, row: DeviceRow, upstream: Upstream | None, block_size: int) -> None:
        """Combine what the store knows and what was opened."""
        self.id = row.id
        self.name = row.name
        self.type = row.type
        self.upstream = upstream
        self.first_block = int(first_address(row.id))
        self.stats = DeviceStatistics()
        self._block_size = block_size
        self.update(row)

    def update(self, row: DeviceRow) -> None:
        """Take over a changed row."""
        self.row = row
        self.size_bytes = row.seen_bytes
        self.blocks = row.seen_blocks(self._block_size)
        self.end_block = self.first_block + self.blocks
        self.own_end = self.first_block + row.own_blocks(self._block_size)
        self.upstream_end = self.first_block + row.upstream_blocks(self._block_size)
        self.readable_bytes = row.size_bytes
        if row.flush_bytes is not None:
            self.readable_bytes = min(row.size_bytes, row.flush_bytes)

    @property
    def is_served(self) -> bool:
        """Whether all that there is of it can be shown."""
        return self.upstream is not None or self.type == "none"

    @property
    def is_resizable(self) -> bool:
        """Whether its size may change: a block device's may not."""
        return self.type != "block"

    @property
    def max_bytes(self) -> int:
        """The greatest size that it may get."""
        return MAX_DEVICE_BLOCKS * self._block_size if self.is_resizable else self.size_bytes

    @property
    def flush_end(self) -> int:
        """Blocks before this address have their whole place upstream."""
        if self.size_bytes <= self.row.size_bytes:
            return self.own_end
        return min(self.own_end, self.first_block + self.row.size_bytes // self._block_size)

    @property
    def mtime_ns(self) -> int | None:
        """Modification time to be shown, if there is one."""
        return self.row.mtime_ns if self.row.modified_ns is None else self.row.modified_ns

    def row_with_size(self, size_bytes: int) -> DeviceRow:
        """Return the row after a change of the size, which hides what is cut."""
        row = replace(self.row, virtual_bytes=size_bytes)
        own = row.own_blocks(self._block_size)
        return replace(row, shown_blocks=own).normal(self._block_size)
