"""Reads stored blocks in bulk and hashes them, for checks of contents. No engine is involved.

Large reads in ascending order; where one fails, block by block.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from thincow.block_types import COW_BASE, DEVICE_SHIFT, MAX_DEVICE_BLOCKS, ZERO
from thincow.store.columns import IntColumn
from thincow.store.cow_file import COW_NAME
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.upstream import Upstream, scan_place

BoolColumn = NDArray[np.bool_]
READ_BYTES: Final = 8 << 20


class Hashes(NamedTuple):
    """Hashes of consecutive blocks, signed, and which of them could be read."""

    values: IntColumn
    known: BoolColumn


class StoredBlocks:
    """The contents that references lead to."""

    def __init__(
        self, disk: Disk, cow_fd: int, upstreams: Mapping[int, Upstream], block_size: int
    ) -> None:
        """Read `cowdata` and the upstreams, by device id, that are there."""
        self._disk = disk
        self._cow_fd = cow_fd
        self._cow_end = disk.size(cow_fd) // block_size
        self._upstreams = upstreams
        self._block_size = block_size
        self._zero = _signed(xxh3_64_intdigest(bytes(block_size)))
        self.blocks_read = 0

    def has(self, reference: int) -> bool:
        """Tell whether the place of a content is there at all."""
        if reference >= COW_BASE:
            return reference - COW_BASE < self._cow_end
        return reference == ZERO or reference >> DEVICE_SHIFT in self._upstreams

    def hashes(self, reference: int, length: int) -> Hashes:
        """Return the hashes of a run of blocks (for ZERO: of as many zero blocks)."""
        if reference == ZERO:
            return Hashes(np.full(length, self._zero, np.int64), np.ones(length, np.bool_))
        values = np.zeros(length, np.int64)
        known = np.zeros(length, np.bool_)
        if not self.has(reference):
            return Hashes(values, known)
        step = max(1, READ_BYTES // self._block_size)
        for at in range(0, length, step):
            part = min(step, length - at)
            try:
                self._hash(reference + at, part, values[at:], known[at:])
            except OSError:
                for index in range(at, at + part):
                    try:
                        self._hash(reference + index, 1, values[index:], known[index:])
                    except OSError:
                        continue
        self.blocks_read += length
        return Hashes(values, known)

    def _hash(self, reference: int, length: int, values: IntColumn, known: BoolColumn) -> None:
        size = self._block_size
        if reference >= COW_BASE:
            fd, offset, end = self._cow_fd, (reference - COW_BASE) * size, None
        else:
            upstream = self._upstreams[reference >> DEVICE_SHIFT]
            fd, end = upstream.fd, upstream.size_bytes
            offset = (reference & (MAX_DEVICE_BLOCKS - 1)) * size
        data = memoryview(self._disk.read(fd, length * size, offset))
        for index in range(length):
            block = data[index * size : (index + 1) * size]
            if len(block) < size:
                if not block or offset + len(data) != end:
                    return
                block = memoryview(bytes(block).ljust(size, b"\0"))
            values[index] = _signed(xxh3_64_intdigest(block))
            known[index] = True


@contextmanager
def open_blocks(
    disk: Disk,
    data_dir: Path,
    upstream_dir: Path | None,
    devices: list[DeviceRow],
    block_size: int,
) -> Iterator[StoredBlocks]:
    """Open everything that contents can be read from.

    Raises:
        ConfigurationError: when the upstream directory cannot be used.
        OSError: when `cowdata` cannot be opened.
    """
    with ExitStack() as stack:
        upstreams = {}
        ids = {device.name: device.id for device in devices}
        for file in scan_place(upstream_dir, disk) if upstream_dir is not None else ():
            if file.name in ids:
                upstream = Upstream(disk, file)
                stack.callback(upstream.close)
                upstreams[ids[file.name]] = upstream
        cow_fd = disk.open(data_dir / COW_NAME, os.O_RDONLY)
        stack.callback(disk.close, cow_fd)
        yield StoredBlocks(disk, cow_fd, upstreams, block_size)


def runs(references: IntColumn) -> Iterator[tuple[int, int, int]]:
    """Yield (index, first reference, length) of runs of consecutive references, or of ZERO."""
    if not len(references):
        return
    steps = np.diff(references)
    zeros = (references[1:] == ZERO) & (references[:-1] == ZERO)
    consecutive = (steps == 1) & (references[:-1] != ZERO)
    starts = np.concatenate(([0], np.flatnonzero(~(consecutive | zeros)) + 1, [len(references)]))
    for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        yield start, int(references[start]), end - start


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
