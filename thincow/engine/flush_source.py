"""Where a flush reads contents from. For any one thread."""

import errno
from dataclasses import dataclass, field
from mmap import PAGESIZE

from thincow.block_types import COW_BASE, DEVICE_SHIFT, ZERO
from thincow.store.disk import Disk


@dataclass(slots=True)
class Source:
    """Where contents are read from, while nothing overwrites them."""

    disk: Disk
    cow_fd: int
    upstream_fds: dict[int, tuple[int, int, int]]
    """Device id -> descriptor, first block address, size in bytes."""
    block_size: int
    names: dict[int, str] = field(default_factory=dict)
    """Device id -> name, for messages."""

    def read(self, reference: int, length: int, into: memoryview) -> None:
        """Read a run of blocks into a buffer of exactly its size; zeros follow a device's end.

        Raises:
            OSError: when any of it cannot be read.
        """
        fd, offset, count = self._begin(reference, length, into)
        if count == 0 or self.disk.read_cached(fd, into[:count], offset):
            return
        data = self.disk.read(fd, count, offset)
        if len(data) != count:
            raise OSError(errno.EIO, "the source of a block is too short")
        into[:count] = data

    def peek(self, reference: int, length: int, into: memoryview) -> bool:
        """Read as `read` does if all of it is in memory; tell whether. Reads no disk.

        Raises:
            OSError: when it cannot be read at all.
        """
        fd, offset, count = self._begin(reference, length, into)
        if count == 0:
            return True
        pages = -(-(offset + count) // PAGESIZE) - offset // PAGESIZE
        if self.disk.cached_pages(fd, offset, count) < pages:
            return False
        return self.disk.read_cached(fd, into[:count], offset)

    def has_none(self, address: int, length: int) -> bool:
        """Tell whether no block of a range of upstream is in memory."""
        fd, offset, count = self._place(address, length)
        return self.disk.cached_pages(fd, offset, count) == 0

    def describe(self, reference: int) -> str:
        """Say where a content is, for messages."""
        if reference >= COW_BASE:
            return f"cowdata: byte {(reference - COW_BASE) * self.block_size}"
        device_id = reference >> DEVICE_SHIFT
        offset = (reference & (1 << DEVICE_SHIFT) - 1) * self.block_size
        return f"{self.names.get(device_id, 'a missing device')}: byte {offset}"

    def _begin(self, reference: int, length: int, into: memoryview) -> tuple[int, int, int]:
        """Return what `_place` does, and fill the rest of a buffer with zeros."""
        fd, offset, count = (-1, 0, 0) if reference == ZERO else self._place(reference, length)
        if count < len(into):
            into[count:] = bytes(len(into) - count)
        return fd, offset, count

    def _place(self, reference: int, length: int) -> tuple[int, int, int]:
        """Return descriptor, offset and number of bytes (fewer at the end of a device)."""
        size = self.block_size
        if reference >= COW_BASE:
            return self.cow_fd, (reference - COW_BASE) * size, length * size
        try:
            fd, first, size_bytes = self.upstream_fds[reference >> DEVICE_SHIFT]
        except KeyError:
            raise OSError(errno.ENXIO, "the device is missing") from None
        offset = (reference - first) * size
        return fd, offset, max(0, min(length * size, size_bytes - offset))
