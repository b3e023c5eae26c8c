"""Flushing a mount from outside: begins a flush, watches it, cancels it, tells what came of it."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_outcome import DeviceOutcome, FlushOutcome, FlushProgress
from thincow.mount.flush_words import CANCEL, spell
from thincow.mount.live_mount import LiveMount

_FIRST_LOOK_S: Final = 0.01
_LOOK_AGAIN_S: Final = 0.2


def run_flush(
    mount: LiveMount,
    order: FlushOrder,
    progress: FlushProgress,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> FlushOutcome:
    """Flush, and return when it has ended, was cancelled or has failed.

    Args:
        mount: what to flush.
        order: how much of it.
        progress: is told how far it is.
        is_cancelled: asked again and again whether to cancel; the batch under way is finished.

    Raises:
        FlushError: when it cannot begin.
        MountPointError: when the mount does not answer any more.
    """
    before = mount.stats()
    names = mount.device_names() if order.names is None else sorted(order.names)
    names = [name for name in names if before[f"Device {name} type"] != "none"]
    block_size = int(before["Block size"])
    mount.command_flush(spell(order))
    look_again_s = _FIRST_LOOK_S
    while (state := mount.read("flush")).startswith("flushing "):
        done, total = (int(number) * block_size for number in state.split()[1:])
        progress.show(min(done, total), total)
        time.sleep(look_again_s)
        look_again_s = min(2 * look_again_s, _LOOK_AGAIN_S)
        if is_cancelled():
            mount.command_flush(CANCEL)
    _, _, error = state.rstrip("\n").partition("\n")
    after = mount.stats("stats-full.txt")
    return FlushOutcome(
        error or None,
        is_cancelled(),
        tuple(_outcome(name, before, after, block_size) for name in names),
    )


def _outcome(
    name: str, before: dict[str, str], after: dict[str, str], block_size: int
) -> DeviceOutcome:
    def grown(key: str) -> int:
        return int(after[f"Device {name} {key}"]) - int(before[f"Device {name} {key}"])

    left = int(after[f"Device {name} blocks"]) - int(after[f"Device {name} blocks original"])
    return DeviceOutcome(
        name,
        grown("flush writes") * block_size,
        grown("flush blocks equal") * block_size,
        left * block_size,
    )


def unknown_devices(mount: LiveMount, names: Iterable[str]) -> list[str]:
    """Return which names are not those of devices."""
    known = set(mount.device_names())
    return [name for name in names if name not in known]
