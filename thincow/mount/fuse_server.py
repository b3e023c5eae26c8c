"""One FUSE session: mounts an open engine, serves requests, and takes the mount down.

The event loop never touches its own mount: what might (unmounting, dropping cached pages) runs in
a thread while the loop goes on answering.
"""

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import pyfuse3
import trio

from thincow.engine.engine import Engine
from thincow.errors import MountPointError, ThincowError
from thincow.mount.commit_scheduler import CommitScheduler
from thincow.mount.control_files import ControlFiles
from thincow.mount.device_file import DeviceFiles, PageCacheInvalidator
from thincow.mount.end_signals import EndSignals
from thincow.mount.flush_file import FlushRunner
from thincow.mount.freezer import Freezer
from thincow.mount.inode_tree import InodeTree, OverlayTree, overlay_node
from thincow.mount.mount_point import unmount
from thincow.mount.mount_table import MountEntry, find_mount
from thincow.mount.operations import ThincowOperations
from thincow.mount.options import FILESYSTEM_TYPE, MountOptions
from thincow.mount.overlay_operations import OverlayOperations
from thincow.mount.read_ahead import raise_read_ahead
from thincow.mount.request_waiter import RequestWaiter, used_by_pyfuse3

_log = logging.getLogger(__name__)

_MAX_TASKS: Final = 64
"""Requests served at a time; each costs a buffer of 1 MiB."""
_PR_SET_IO_FLUSHER: Final = 57
_STDERR: Final = 2


class FuseServer:
    """Serves one engine at one mount point; `run` may be called once."""

    def __init__(
        self,
        engine: Engine,
        options: MountOptions,
        signals: EndSignals,
        ready: Callable[[], None],
    ) -> None:
        self._mount_point = options.mount_point.resolve()
        self._signals = signals
        self._ready = ready
        self._fuse_options = _fuse_options(engine, options)
        self._scheduler = CommitScheduler(engine, engine.options.tuning.commit_interval_s)
        self._invalidator = PageCacheInvalidator()
        is_overlay = options.original is not None
        self._device_files = device_files = DeviceFiles(
            engine,
            self._scheduler,
            self._invalidator,
            direct_io=options.fuse.direct_io,
            cuts_when_opened=is_overlay,
        )
        devices = self._mount_point / "devs"
        paths = {
            device.id: self._mount_point if is_overlay else devices / device.name
            for device in engine.devices
        }
        self._flusher = FlushRunner(engine, self._scheduler, device_files, paths)
        self._freezer = Freezer(engine, self._scheduler, self._flusher)
        controls = ControlFiles(engine, self._scheduler, self._flusher)
        self._operations = (
            _overlay_operations(engine, device_files, controls)
            if is_overlay
            else ThincowOperations(
                InodeTree(engine.devices, read_only=engine.read_only),
                device_files,
                controls,
                block_size=engine.block_size,
            )
        )
        self._mounted: MountEntry | None = None
        self._is_usable = False

    def run(self) -> None:
        """Mount, serve until the end, and return unmounted with every request answered.

        Raises:
            ThincowError: when it cannot be mounted, or the session breaks down.
        """
        _declare_io_flusher()
        self._mount()
        try:
            trio.run(self._serve)
        except* OSError as group:
            raise ThincowError(f"the FUSE session broke down: {group.exceptions[0]}") from group
        finally:
            pyfuse3.close(unmount=self._is_mounted())
        if not self._is_usable:
            raise MountPointError(f"{self._mount_point} was unmounted before it could be used")

    def _mount(self) -> None:
        complaints: list[str] = []
        try:
            with _collected(complaints):
                pyfuse3.init(self._operations, str(self._mount_point), self._fuse_options)
        except RuntimeError as error:
            reason = complaints[-1] if complaints else str(error)
            raise MountPointError(f"cannot mount on {self._mount_point}: {reason}") from None
        self._mounted = find_mount(self._mount_point)

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce)
            nursery.start_soon(self._end_on_signal)
            nursery.start_soon(self._freezer.run)
            nursery.start_soon(self._flusher.run)
            nursery.start_soon(self._scheduler.run)
            nursery.start_soon(self._scheduler.give_space_back)
            nursery.start_soon(self._invalidator.run)
            with used_by_pyfuse3(RequestWaiter(self._is_thread_awaited)):
                await pyfuse3.main(min_tasks=1, max_tasks=_MAX_TASKS)
            self._flusher.stop()
            nursery.cancel_scope.cancel()

    def _is_thread_awaited(self) -> bool:
        return (
            self._scheduler.is_awaited or self._device_files.is_awaited or self._flusher.is_awaited
        )

    async def _announce(self) -> None:
        await self._operations.started.wait()
        # Only an answered request shows that the kernel and the library have come to terms.
        await trio.to_thread.run_sync(os.statvfs, self._mount_point, abandon_on_cancel=True)
        if self._mounted is not None:
            raise_read_ahead(self._mounted.device)
        self._is_usable = True
        _log.info("%s: mounted", self._mount_point)
        self._ready()

    async def _end_on_signal(self) -> None:
        await self._signals.wait()
        _log.info("%s: ending on a signal", self._mount_point)
        self._flusher.stop()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._take_down)
        # The session lives on while somebody uses the hidden mount, which nobody may wait for.
        pyfuse3.terminate()

    def _take_down(self) -> None:
        for lazily in (False, True):
            if not self._is_mounted():
                return
            try:
                unmount(self._mount_point, lazily=lazily)
            except OSError as error:
                how = "unmounting lazily" if lazily else "unmounting"
                _log.warning("%s: %s: %s", self._mount_point, how, error.strerror)

    def _is_mounted(self) -> bool:
        """Whether our mount, not one that came after it, is on the mount point."""
        return self._mounted is not None and find_mount(self._mount_point) == self._mounted


def _overlay_operations(
    engine: Engine, device_files: DeviceFiles, controls: ControlFiles
) -> ThincowOperations:
    (device,) = engine.devices
    tree = OverlayTree(overlay_node(device, lambda: engine.allocated_bytes(device)))
    return OverlayOperations(tree, device_files, controls, engine)


def _fuse_options(engine: Engine, options: MountOptions) -> set[str]:
    chosen = set(pyfuse3.default_options) | options.fuse.for_fuse
    chosen.add(f"subtype={FILESYSTEM_TYPE.removeprefix('fuse.')}")
    if not any(option.startswith("fsname=") for option in chosen):
        chosen.add("fsname=thincow")
    if engine.read_only:
        chosen.add("ro")
    return chosen


def _declare_io_flusher() -> None:
    """Tell the kernel that it waits for us when it frees memory, so we must not wait for it.

    Threads made from now on inherit it. It needs a capability; without it nothing is lost but the
    guarantee.
    """
    ctypes.CDLL(None).prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0)


@contextmanager
def _collected(lines: list[str]) -> Iterator[None]:
    """Collect what the FUSE library and its helper program print, line by line."""
    saved = os.dup(_STDERR)
    with os.fdopen(os.memfd_create("complaints"), "w+b") as file:
        os.dup2(file.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            file.seek(0)
            text = file.read().decode(errors="replace")
            lines.extend(line.strip() for line in text.splitlines() if line.strip())
