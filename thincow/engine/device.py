"""One virtual device: an upstream device as the store knows and serves it."""

from thincow.block_types import first_address
from thincow.engine.statistics import DeviceStatistics
from thincow.store.devices_table import DeviceRow
from thincow.store.upstream import Upstream


class Device:
    """A device that requests may name.

    `upstream` is None while the device is missing: it has no place in the tree then, but other
    devices may refer to its blocks, which cannot be read.
    """

    def __init__(self, row: DeviceRow, upstream: Upstream | None, block_size: int) -> None:
        """Combine what the store knows and what was opened."""
        self.row = row
        self.id = row.id
        self.name = row.name
        self.type = row.type
        self.size_bytes = row.size_bytes
        self.mtime_ns = row.mtime_ns
        self.upstream = upstream
        self.first_block = int(first_address(row.id))
        self.blocks = -(-row.size_bytes // block_size)
        self.end_block = self.first_block + self.blocks
        self.stats = DeviceStatistics()
