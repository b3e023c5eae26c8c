"""Contents of blocks, wherever they are: upstream, in the COW store, or zero.

Also the gate that every new reference passes: what may be referred to at all.
"""

from collections.abc import Mapping
from typing import Final

from thincow.block_types import COW_BASE, DEVICE_SHIFT, ZERO
from thincow.engine.cow_store import CowStore
from thincow.engine.device import Device
from thincow.engine.fetch import Fetch, Wanted
from thincow.engine.upstream_state import UpstreamState
from thincow.store.disk import Disk

NO_BAD_BLOCKS: frozenset[int] = frozenset()
_ZEROS: Final = bytes(1 << 20)


class Contents:
    """Reads runs of blocks without blocking."""

    def __init__(
        self,
        disk: Disk,
        devices: Mapping[int, Device],
        cow: CowStore,
        upstream: UpstreamState,
        block_size: int,
    ) -> None:
        """Read the given devices, by id, and the COW store; `block_size` in bytes."""
        self._upstream = upstream
        self._upstream_pins: list[tuple[int, int]] = []
        self._disk = disk
        self._devices = devices
        self._cow = cow
        self._block_size = block_size

    def new_fetch(self) -> Fetch:
        """Return an empty fetch for one engine call."""
        return Fetch(self._disk, self._block_size, self._unpin)

    def referable(self, reference: int, limit: int) -> int:
        """Return how many blocks from `reference` on, at most `limit`, may be referred to.

        Upstream blocks must exist and be shown; COW blocks must be referenced already.
        """
        if reference >= COW_BASE:
            block = reference - COW_BASE
            if block >= self._cow.end_block:
                return 0
            return self._cow.live_run(block, min(limit, self._cow.end_block - block))
        device = self._devices.get(reference >> DEVICE_SHIFT)
        if device is None or device.upstream is None:
            return 0
        # What was cut may go at any time; and in its own place a block shows zeros there.
        shown = min(limit, device.own_end - reference)
        return self._upstream.referable(reference, shown) if shown > 0 else 0

    def is_being_read(self, address: int, length: int) -> bool:
        """Tell whether a fetch under way, or not released yet, reads any of a range of upstream."""
        return any(
            start < address + length and address < start + count
            for start, count in self._upstream_pins
        )

    def load(
        self, reference: int, length: int, into: memoryview, fetch: Fetch
    ) -> frozenset[int] | None:
        """Put the contents of a run of blocks into a buffer.

        Args:
            reference: of the first block.
            length: blocks in the run.
            into: exactly as long as the run.
            fetch: contents read before; where nothing is found, the run is added to it.

        Returns:
            Indexes of the blocks that cannot be read; None when the fetch has to run first.
        """
        if reference == ZERO:
            self._fill_zeros(into)
            return NO_BAD_BLOCKS
        if reference >= COW_BASE and self._cow.only_durable:
            lost = self._cow.lost(reference - COW_BASE, length)
            if lost:
                # Block by block from here on: the others can be read.
                return self._load_rest(reference, length, into, fetch, lost)
        if fetch.has_contents:
            found = fetch.find(reference, length)
            if found is not None:
                self._count_errors(fetch)
                into[:] = found[0]
                return found[1]
        present = self._present(reference, length)
        if present < length:
            return self._load_present(reference, length, present, into, fetch)
        fd, offset, available = self._locate(reference, length)
        if reference < COW_BASE:
            self._devices[reference >> DEVICE_SHIFT].stats.upstream_reads += 1
        is_whole = available == len(into)
        try:
            if self._disk.read_cached(fd, into if is_whole else into[:available], offset):
                if not is_whole:
                    self._fill_zeros(into[available:])
                return NO_BAD_BLOCKS
        except OSError:
            pass  # fetching finds out which blocks are bad
        self._pin(reference, length)
        fetch.want(Wanted(reference, length, fd, offset, available))
        return None

    def _load_present(
        self, reference: int, length: int, present: int, into: memoryview, fetch: Fetch
    ) -> frozenset[int] | None:
        """Load a run of which only the first `present` blocks exist; the others are bad."""
        split = present * self._block_size
        self._fill_zeros(into[split:])
        bad = frozenset(range(present, length))
        if not present:
            return bad
        found = self.load(reference, present, into[:split], fetch)
        return None if found is None else found | bad

    def _load_rest(
        self,
        reference: int,
        length: int,
        into: memoryview,
        fetch: Fetch,
        lost: frozenset[int],
    ) -> frozenset[int] | None:
        size = self._block_size
        bad = set(lost)
        waiting = False
        for index in range(length):
            if index not in lost:
                part = into[index * size : (index + 1) * size]
                found = self.load(reference + index, 1, part, fetch)
                waiting |= found is None
                if found:
                    bad.add(index)
        return None if waiting else frozenset(bad)

    def load_one(self, reference: int, into: memoryview) -> bool:
        """Put the contents of one block into a buffer, if they can be had at once.

        For the many blocks about which nothing is peculiar; the others are left to `load`.
        """
        if reference == ZERO:
            self._fill_zeros(into)
            return True
        size = self._block_size
        device = None
        if reference >= COW_BASE:
            cow = self._cow
            block = reference - COW_BASE
            if block >= cow.end_block or cow.only_durable:
                return False
            fd, offset = cow.file.fd, block * size
        else:
            device = self._devices.get(reference >> DEVICE_SHIFT)
            if device is None or device.upstream is None:
                return False
            fd, offset = device.upstream.fd, (reference - device.first_block) * size
            if offset + size > device.readable_bytes:
                return False
        try:
            if not self._disk.read_cached(fd, into, offset):
                return False
        except OSError:
            return False
        if device is not None:
            device.stats.upstream_reads += 1
        return True

    def load_if_cached(self, reference: int, into: memoryview) -> bool:
        """Put the contents of one upstream block into a buffer if that takes no disk access."""
        if not self._present(reference, 1):
            return False
        fd, offset, available = self._locate(reference, 1)
        if available < len(into):
            return False
        try:
            return self._disk.read_cached(fd, into, offset)
        except OSError:
            return False

    def _present(self, reference: int, length: int) -> int:
        """Return how many blocks from `reference` on, at most `length`, there are to read."""
        if reference >= COW_BASE:
            # A damaged map may lead anywhere.
            return max(0, min(length, self._cow.end_block - (reference - COW_BASE)))
        device = self._devices.get(reference >> DEVICE_SHIFT)
        if device is None or device.upstream is None:
            return 0
        return max(0, min(length, device.upstream_end - reference))

    def _locate(self, reference: int, length: int) -> tuple[int, int, int]:
        """Return where a run is: descriptor, offset in bytes, and how many bytes there are."""
        size = self._block_size
        if reference >= COW_BASE:
            offset = (reference - COW_BASE) * size
            return self._cow.file.fd, offset, length * size
        device = self._devices[reference >> DEVICE_SHIFT]
        assert device.upstream is not None
        offset = (reference - device.first_block) * size
        available = max(0, min(length * size, device.readable_bytes - offset))
        return device.upstream.fd, offset, available

    def _count_errors(self, fetch: Fetch) -> None:
        for reference in fetch.take_errors():
            if reference < COW_BASE:
                self._devices[reference >> DEVICE_SHIFT].stats.upstream_read_errors += 1

    def _fill_zeros(self, into: memoryview) -> None:
        done = 0
        while done < len(into):
            part = min(len(into) - done, len(_ZEROS))
            into[done : done + part] = _ZEROS[:part]
            done += part

    def _pin(self, reference: int, length: int) -> None:
        if reference >= COW_BASE:
            self._cow.pin([(reference - COW_BASE, length)])
        else:
            self._upstream_pins.append((reference, length))

    def _unpin(self, reference: int, length: int) -> None:
        if reference >= COW_BASE:
            self._cow.unpin([(reference - COW_BASE, length)])
        else:
            self._upstream_pins.remove((reference, length))
