"""The upstream devices that a flush has open for writing."""

import errno

from thincow.engine.device import Device
from thincow.engine.upstream_state import UpstreamState
from thincow.errors import FlushError
from thincow.store.disk import Disk
from thincow.store.upstream_writer import UpstreamWriter


class UpstreamWriters:
    """Opens devices when they are first written to; `close` ends all."""

    def __init__(self, disk: Disk, upstream: UpstreamState) -> None:
        """Open through `disk`; `upstream` knows which devices a flush was cut in."""
        self._disk = disk
        self._upstream = upstream
        self._writers: dict[int, UpstreamWriter] = {}

    def open(self, device: Device) -> UpstreamWriter:
        """Return the writer of a device.

        Raises:
            FlushError: when somebody else uses or changed it, or it cannot be written.
        """
        writer = self._writers.get(device.id)
        if writer is None:
            assert device.upstream is not None
            writer = self._writers[device.id] = UpstreamWriter(self._disk, device.upstream)
            if writer.mtime_ns() != device.row.mtime_ns and not self._is_marked(device):
                raise FlushError(
                    f"upstream device {device.name} was changed by somebody else since the store "
                    "was opened: unmount, and see what changed it",
                    errno.EIO,
                )
        return writer

    def close(self) -> None:
        """Close all."""
        for writer in self._writers.values():
            writer.close()

    def _is_marked(self, device: Device) -> bool:
        if device.row.flush_bytes is not None:
            return True
        blocks = device.upstream_end - device.first_block
        return self._upstream.is_marked(device.first_block, blocks)
