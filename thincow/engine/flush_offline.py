"""Flushing a store that is not mounted: the same steps as in a mount, one after the other.

The store is opened as a mount opens it, so a flush that was cut, there or here, goes on in either.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

from thincow.engine.engine import Engine, open_engine
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_outcome import DeviceOutcome, FlushOutcome, FlushProgress
from thincow.engine.flush_plan import FlushPlan
from thincow.engine.options import StoreOptions
from thincow.errors import ConfigurationError, FlushError, NoStoreError
from thincow.store.database import DATABASE_NAME


def plan_offline(options: StoreOptions, names: Collection[str] = ()) -> FlushPlan:
    """Return what a full flush would do, changing nothing.

    Args:
        options: what to open.
        names: devices that must be there.

    Raises:
        ThincowError: when the store cannot be opened, or has no such device.
    """
    _require_store(options)
    engine = open_engine(replace(options, read_only=True))
    try:
        _require_devices(engine, names)
        with engine.snapshot() as snapshot:
            return engine.flush.plan(snapshot)
    finally:
        engine.close()


def flush_offline(
    options: StoreOptions,
    order: FlushOrder,
    progress: FlushProgress,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> FlushOutcome:
    """Flush, and return when it has ended, was cancelled or has failed; the store is closed then.

    Args:
        options: what to open.
        order: how much of it to flush.
        progress: is told how far it is.
        is_cancelled: asked again and again whether to cancel; the batch under way is finished.

    Raises:
        ThincowError: when the store cannot be opened, has no such device, or the last changes could
            not be saved.
    """
    _require_store(options)
    engine = open_engine(options)
    try:
        _require_devices(engine, order.names or ())
        outcome = _flush(engine, order, progress, is_cancelled)
    except BaseException:
        engine.close()
        raise
    engine.close()
    return outcome


def _flush(
    engine: Engine,
    order: FlushOrder,
    progress: FlushProgress,
    is_cancelled: Callable[[], bool],
) -> FlushOutcome:
    def look() -> None:
        if is_cancelled():
            engine.flush.cancel()
        done, total = engine.flush.progress
        progress.show(min(done, total) * engine.block_size, total * engine.block_size)

    error = None
    try:
        engine.flush.run(order, look)
    except FlushError as failure:
        error = str(failure)
    size = engine.block_size
    with engine.snapshot() as snapshot:
        uses = {device.id: snapshot.map_use(device.id, device.own_end) for device in engine.devices}
    return FlushOutcome(
        error,
        is_cancelled(),
        tuple(
            DeviceOutcome(
                device.name,
                device.stats.flush_writes * size,
                device.stats.flush_equal * size,
                (uses[device.id].remapped + uses[device.id].cow + uses[device.id].zero) * size,
            )
            for device in engine.devices
            if device.type != "none" and (order.names is None or device.name in order.names)
        ),
    )


def _require_store(options: StoreOptions) -> None:
    assert options.metadata_dir is not None
    if not (options.metadata_dir / DATABASE_NAME).is_file():
        raise NoStoreError(f"there is no store in {options.metadata_dir}")


def _require_devices(engine: Engine, names: Collection[str]) -> None:
    known = {device.name for device in engine.devices}
    for name in sorted(set(names) - known):
        raise ConfigurationError(f"{engine.options.data_dir} has no device {name}")
