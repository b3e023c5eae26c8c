"""Starts flushes, one at a time, and says how they stand."""

import errno
from collections.abc import Callable, Sequence

from thincow.engine.device import Device
from thincow.engine.flush import Flush
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_plan import FlushPlan, plan_flush
from thincow.engine.flush_source import Source
from thincow.engine.flush_steps import FlushTools, Pause
from thincow.engine.open_store import OpenStore
from thincow.errors import CommitError, FlushError, ReadOnlyError, StoreFailedError, ThincowError
from thincow.store import extents_table
from thincow.store.disk import Disk
from thincow.store.snapshot import Snapshot


def flush_source(disk: Disk, store: OpenStore) -> Source:
    """Return where the contents of an open store are read from."""
    upstream_fds = {
        device.id: (device.upstream.fd, device.first_block, device.upstream.size_bytes)
        for device in store.devices
        if device.upstream is not None
    }
    names = {device.id: device.name for device in store.devices}
    return Source(disk, store.cow_file.fd, upstream_fds, store.facts.block_size, names)


class FlushControl:
    """The flushes of one engine."""

    def __init__(self, tools: FlushTools | None, devices: Sequence[Device], source: Source) -> None:
        """Flush devices that have an upstream; without tools that is disabled, but for planning."""
        self._tools = tools
        self._devices = [device for device in devices if device.upstream is not None]
        self._with_upstream = [device for device in devices if device.type != "none"]
        self._source = source
        self._running: Flush | None = None
        self._error: str | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether upstream may be written at all."""
        return self._tools is not None

    @property
    def is_running(self) -> bool:
        """Whether a flush has begun and not ended."""
        return self._running is not None

    @property
    def progress(self) -> tuple[int, int]:
        """Blocks done and blocks to do of the running flush; 0 of 0 when none runs."""
        return (self._running.done, self._running.total) if self._running is not None else (0, 0)

    def status(self) -> str:
        """Return `disabled`, `flushing DONE TOTAL`, `error` and why, `clean` or `ready`."""
        if self._tools is None:
            return "disabled"
        if self._running is not None:
            return f"flushing {self._running.done} {self._running.total}"
        if self._error is not None:
            return f"error\n{self._error}"
        committer = self._tools.committer
        if self._tools.parts.block_map.windows.dirty() or committer.is_running:
            return "ready"
        is_clean = not any(map(self._is_dirty, self._with_upstream))
        return "clean" if is_clean else "ready"

    def _is_dirty(self, device: Device) -> bool:
        assert self._tools is not None
        return device.row.needs_resize or extents_table.has_any(
            self._tools.reader, device.first_block, device.end_block
        )

    def plan(self, snapshot: Snapshot) -> FlushPlan:
        """Return what a full flush would do; for any thread.

        Raises:
            CorruptStoreError: when the store is damaged.
        """
        return plan_flush(snapshot, self._devices, self._source)

    def begin(self, order: FlushOrder) -> Flush:
        """Return a flush whose steps are to be gone through, and `end` called then.

        Raises:
            ReadOnlyError: when flushing is disabled.
            FlushError: when one is running, or there is no such device.
        """
        if self._tools is None:
            raise ReadOnlyError("flushing is disabled in this mount")
        if self._running is not None:
            raise FlushError("a flush is running", errno.EBUSY)
        unknown = (order.names or frozenset()) - {device.name for device in self._devices}
        if unknown:
            raise FlushError(f"there is no device {min(unknown)}", errno.ENODEV)
        self._error = None
        self._running = Flush(self._tools, self._devices, order)
        return self._running

    def end(self, error: ThincowError | None) -> None:
        """Note how the running flush ended."""
        self._running = None
        self._error = None if error is None else str(error)

    def cancel(self) -> None:
        """Let the running flush end after its batch."""
        if self._running is not None:
            self._running.cancel()

    def run(self, order: FlushOrder, before_step: Callable[[], None] = lambda: None) -> Flush:
        """Flush at once, in the calling thread: for offline use.

        Args:
            order: what to flush.
            before_step: called before each step, as requests would come in a mount.

        Raises:
            FlushError, CommitError, StoreFailedError: as the steps do.
        """
        flush = self.begin(order)
        failure: ThincowError | None = None
        try:
            steps = flush.steps()
            step = next(steps, None)
            while step is not None:
                before_step()
                try:
                    if step is Pause.COMMIT:
                        assert self._tools is not None
                        self._tools.committer.commit()
                    elif not isinstance(step, Pause):
                        step.run()
                except (CommitError, StoreFailedError) as error:
                    steps.throw(error)
                step = next(steps, None)
        except ThincowError as error:
            failure = error
            raise
        finally:
            self.end(failure)
        return flush
