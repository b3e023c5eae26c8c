"""Reading and writing the files under /devs.

The engine answers from memory and the page cache at once; when content must come from a slow disk
it raises `WouldBlock`, the content is fetched in a worker thread, and the request is made again.
Other requests run between the attempts, which is safe: each attempt looks everything up anew.
"""

import errno
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import pyfuse3
import trio

from thincow.engine.device import Device
from thincow.engine.engine import Engine
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.errors import BlockReadError, PastEndError, RequestError
from thincow.mount.commit_scheduler import CommitScheduler
from thincow.mount.inode_tree import Node

_log = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_MAX_FETCHES: Final = 16
"""Slow reads under way at a time; apart from trio's shared limit, so that commits never queue."""


class PageCacheInvalidator:
    """Makes the kernel forget what it caches of a file, so that clients see what is stored.

    The kernel waits for requests on the same pages, which the event loop must go on answering, so
    this happens in a thread, and never before the failed request was answered.
    """

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[int](64)

    def request(self, inode: int) -> None:
        """Ask for a file's cached content to be dropped."""
        try:
            self._send.send_nowait(inode)
        except trio.WouldBlock:
            _log.debug("inode %d: too many invalidations waiting", inode)

    async def run(self) -> None:
        """Drop what was asked for, until cancelled."""
        async for inode in self._receive:
            try:
                await trio.to_thread.run_sync(
                    pyfuse3.invalidate_inode, inode, abandon_on_cancel=True
                )
            except OSError as error:
                _log.debug("inode %d could not be invalidated: %s", inode, error)


class DeviceFiles:
    """Serves requests on device files of one engine."""

    def __init__(
        self,
        engine: Engine,
        scheduler: CommitScheduler,
        invalidator: PageCacheInvalidator,
        *,
        direct_io: bool,
        cuts_when_opened: bool = False,
    ) -> None:
        """Serve the devices of an engine.

        `cuts_when_opened`: O_TRUNC does what it does to a file; else it is ignored, as a block
        device does.
        """
        self._engine = engine
        self._scheduler = scheduler
        self._invalidator = invalidator
        self._direct_io = direct_io
        self._cuts_when_opened = cuts_when_opened
        self._limiter = trio.CapacityLimiter(_MAX_FETCHES)
        self._writers = Counter[int]()
        self._refused: set[int] = set()  # devices for which a write failed, unseen perhaps

    @property
    def to_sync(self) -> frozenset[int]:
        """Ids of the devices that have to be synced so that nothing a client wrote is left out.

        Of what was changed in mapped memory the kernel sends the rest before the file is closed,
        which a mapping keeps open; that this failed it tells only whoever syncs the file next.
        """
        return frozenset(+self._writers) | self._refused

    def note_synced(self, devices: frozenset[int]) -> None:
        """Note that the kernel was asked to sync devices, and has told of what failed before."""
        self._refused -= devices

    @property
    def is_awaited(self) -> bool:
        """Whether requests wait for contents that threads read."""
        return self._limiter.borrowed_tokens > 0

    async def open(self, node: Node, handle: int, flags: int) -> "DeviceHandle":
        """Open a device file.

        Raises:
            RequestError: when it cannot be cut as O_TRUNC wants it.
        """
        assert node.device is not None
        if flags & os.O_TRUNC and self._cuts_when_opened:
            await self.resize(node, 0)
        # With the page cache the kernel itself sends an fsync after each write of such a file.
        syncs = self._direct_io and bool(flags & (os.O_SYNC | os.O_DSYNC))
        info = pyfuse3.FileInfo(
            fh=handle, direct_io=self._direct_io, keep_cache=not self._direct_io
        )
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        self._writers[node.device.id] += writes
        return DeviceHandle(self, node, node.device, info, syncs=syncs, writes=writes)

    def note_closed(self, device: Device) -> None:
        """Note that a handle that was opened for writing is gone."""
        self._writers[device.id] -= 1

    async def read(self, device: Device, offset: int, length: int) -> bytes | memoryview:
        """Read; a view is valid only until the next call of the engine.

        Raises:
            RequestError: as the engine does; with the page cache also when a later block is bad.
        """
        device.stats.fuse_reads += 1
        if self._engine.hints_due:
            self._scheduler.note_change()
        try:
            data = self._engine.read(device, offset, length)
        except WouldBlock as blocked:
            data = await self._read_after(blocked.fetch, device, offset, length)
        end = offset + len(data)
        if not self._direct_io and end < min(offset + length, device.size_bytes):
            # The page cache takes a short answer for the end of the file: what follows would read
            # as nothing or zeros. After an error the kernel asks for each page by itself.
            raise BlockReadError(f"{device.name}: cannot read byte {end}")
        return data

    async def _read_after(
        self, fetch: Fetch, device: Device, offset: int, length: int
    ) -> bytes | memoryview:
        return await self._after_fetch(
            fetch, lambda: self._engine.read(device, offset, length, fetch)
        )

    async def write(self, node: Node, device: Device, offset: int, data: bytes) -> int:
        """Write, held back while too much is uncommitted; return the number of bytes taken.

        Raises:
            RequestError: as the engine does.
        """
        device.stats.fuse_writes += 1
        try:
            if self._engine.must_wait:
                await self._scheduler.wait_for_room()
            try:
                taken = self._engine.write(device, offset, data)
            except WouldBlock as blocked:
                taken = await self._write_after(blocked.fetch, device, offset, data)
        except PastEndError:
            raise
        except RequestError:
            self._refused.add(device.id)
            self._forget_cached(node)
            raise
        self._scheduler.note_change()
        return taken

    async def _write_after(self, fetch: Fetch, device: Device, offset: int, data: bytes) -> int:
        return await self._after_fetch(
            fetch, lambda: self._engine.write(device, offset, data, fetch)
        )

    async def _after_fetch(self, fetch: Fetch, again: Callable[[], _Result]) -> _Result:
        """Read what a request waits for and make it `again`, until nothing is missing."""
        try:
            while True:
                await trio.to_thread.run_sync(fetch.run, limiter=self._limiter)
                try:
                    return again()
                except WouldBlock:
                    continue  # it waits for more now, in the same fetch
        finally:
            fetch.release()

    async def resize(self, node: Node, size_bytes: int) -> None:
        """Give a file another size, held back while too much is uncommitted.

        Raises:
            pyfuse3.FUSEError: EPERM for a file that is no device.
            RequestError: as the engine does.
        """
        device = node.device
        if device is None:
            raise pyfuse3.FUSEError(errno.EPERM)
        if size_bytes == device.size_bytes:
            return
        while await self._resize(device, size_bytes) != size_bytes:
            self._scheduler.note_change()
            await trio.lowlevel.checkpoint()
            if self._engine.must_wait:
                await self._scheduler.wait_for_room()
        self._scheduler.note_change()
        node.is_modified = True
        self.show_time(node)

    async def _resize(self, device: Device, size_bytes: int) -> int:
        try:
            return self._engine.resize(device, size_bytes)
        except WouldBlock as blocked:
            fetch = blocked.fetch
        return await self._after_fetch(
            fetch, lambda: self._engine.resize(device, size_bytes, fetch)
        )

    def keep_attributes(self, device: Device, changes: Mapping[str, int]) -> None:
        """Note in the store what a device's file looks like now."""
        self._engine.set_attributes(device, **changes)

    def show_time(self, node: Node) -> None:
        """Let the modification time show that something was written.

        Not at every write: the kernel drops a file's cached pages when it sees a new time.
        """
        if node.is_modified and node.device is not None:
            now = time.time_ns()
            node.change(modified_ns=now)
            self.keep_attributes(node.device, {"modified_ns": now})

    async def sync(self) -> None:
        """Make everything written so far durable.

        Raises:
            RequestError: when the commit failed.
        """
        await self._scheduler.sync()

    def _forget_cached(self, node: Node) -> None:
        if not self._direct_io:
            self._invalidator.request(node.inode)


class DeviceHandle:
    """One open device file."""

    def __init__(
        self,
        files: DeviceFiles,
        node: Node,
        device: Device,
        info: pyfuse3.FileInfo,
        *,
        syncs: bool,
        writes: bool,
    ) -> None:
        self.info = info
        self._files = files
        self._node = node
        self._device = device
        self._syncs = syncs
        self._writes = writes

    async def read(self, offset: int, length: int) -> bytes | memoryview:
        """Read up to `length` bytes."""
        try:
            return await self._files.read(self._device, offset, length)
        except BlockReadError as error:
            _log.error("%s: read at byte %d: %s", self._device.name, offset, error)
            raise

    async def write(self, offset: int, data: bytes) -> int:
        """Write, and commit at once on a handle that was opened for that."""
        self._node.is_modified = True
        taken = await self._files.write(self._node, self._device, offset, data)
        if self._syncs:
            await self._files.sync()
        return taken

    async def sync(self) -> None:
        """Make what was written durable."""
        await self._files.sync()

    async def flush(self) -> None:
        """Show that something was written; closing a file promises nothing."""
        self._files.show_time(self._node)

    def close(self) -> None:
        """Show that something was written through a mapping that was left."""
        if self._writes:
            self._files.note_closed(self._device)
        self._files.show_time(self._node)
