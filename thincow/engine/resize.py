"""Changes of a device's size. Growing is a note; cutting lets go of what was mapped there.

What was cut is zero when the device grows again: blocks without an extent past the cut do not show
upstream any more, and the rest of a partly cut block is overwritten with zeros.
"""

from heapq import merge
from typing import Final

from thincow.engine.block_map import BlockMap
from thincow.engine.block_reader import BlockReader
from thincow.engine.block_writer import BlockWriter
from thincow.engine.checksums import Checksums
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch
from thincow.engine.upstream_state import UpstreamState
from thincow.engine.window_cache import WindowCache
from thincow.errors import FixedSizeError, TooLargeError

_WINDOWS_AT_ONCE: Final = 128


class Resizer:
    """Resizes devices that are served."""

    def __init__(
        self,
        block_map: BlockMap,
        reader: BlockReader,
        writer: BlockWriter,
        checksums: Checksums | None,
        upstream: UpstreamState,
        block_size: int,
    ) -> None:
        """Change sizes in `upstream`, extents in the map, and sums in `checksums`."""
        self._map = block_map
        self._reader = reader
        self._writer = writer
        self._checksums = checksums
        self._upstream = upstream
        self._block_size = block_size

    def write(self, device: Device, offset: int, data: bytes, fetch: Fetch) -> int:
        """Write as `BlockWriter.write` does, and grow a device when that went past its end."""
        taken = self._writer.write(device, offset, data, fetch)
        if taken and offset + taken > device.size_bytes:
            self._note(device, offset + taken)
        return taken

    def resize(self, device: Device, size_bytes: int, fetch: Fetch) -> int:
        """Give a device a new size, or come closer to it; return the size that it has now.

        A large cut is made in several calls, so that none takes long.

        Raises:
            WouldBlock: when the fetch has to run first.
            FixedSizeError: when it is a block device and the size is another one.
            TooLargeError: when it would have too many blocks.
            NoSpaceError, BlockReadError, OSError: when the rest of a partly cut block cannot be
                made zero.
        """
        if size_bytes == device.size_bytes:
            return size_bytes
        if not device.is_resizable:
            raise FixedSizeError(f"{device.name} has a fixed size")
        if size_bytes > device.max_bytes:
            raise TooLargeError(f"{device.name} cannot have {size_bytes} bytes")
        if size_bytes < device.size_bytes:
            size_bytes = self._cut(device, size_bytes, fetch)
        self._note(device, size_bytes)
        return size_bytes

    def _cut(self, device: Device, size_bytes: int, fetch: Fetch) -> int:
        """Let go of blocks past a new end, as far as this call gets; return the size reached."""
        wanted = device.first_block + -(-size_bytes // self._block_size)
        caches = [self._map.windows]
        if self._checksums is not None:
            caches.append(self._checksums.windows)
        first, numbers = _last_used(caches, wanted, device.end_block)
        is_last = first == wanted
        reached = size_bytes if is_last else (first - device.first_block) * self._block_size
        ranges = [_part_of_window(self._map.windows, n, first, device.end_block) for n in numbers]
        for run in ranges:
            self._map.preload(*run)
            if self._checksums is not None:
                self._checksums.windows.preload(*run)
        if is_last:
            self._zero_rest_of_block(device, size_bytes, fetch)
        # Nothing fails from here on.
        self._note(device, reached)
        for run in ranges:
            self._map.forget(*run)
            if self._checksums is not None:
                self._checksums.forget(*run)
        return reached

    def _zero_rest_of_block(self, device: Device, size_bytes: int, fetch: Fetch) -> None:
        """Make zero what lies behind a new end in its block."""
        size = self._block_size
        begin = size_bytes % size
        if not begin:
            return
        block = size_bytes // size
        content = self._reader.load_block(device, block, fetch)
        rest = min(device.size_bytes, (block + 1) * size) - size_bytes
        if any(content[begin:]):
            self._writer.write(device, size_bytes, bytes(rest), fetch)

    def _note(self, device: Device, size_bytes: int) -> None:
        row = device.row_with_size(size_bytes)
        device.update(row)
        self._upstream.update_row(row)


def _last_used(caches: list[WindowCache], first: int, end: int) -> tuple[int, list[int]]:
    """Return the last windows of a range that hold anything, and where they begin.

    Returns:
        `first`, or the first block of the lowest of the windows when there are more; and the
        numbers of the windows, descending.
    """
    found: list[int] = []
    for number in merge(*(cache.used(first, end) for cache in caches), reverse=True):
        if found and number == found[-1]:
            continue
        if len(found) == _WINDOWS_AT_ONCE:
            return found[-1] << caches[0].shift, found
        found.append(number)
    return first, found


def _part_of_window(cache: WindowCache, number: int, first: int, end: int) -> tuple[int, int]:
    """Return the part of a window that lies in a range, as address and length in blocks."""
    low = max(first, number << cache.shift)
    return low, min(end, (number + 1) << cache.shift) - low
