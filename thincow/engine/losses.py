"""Says in bytes of devices which contents a repair could not keep."""

from dataclasses import dataclass
from enum import StrEnum

from thincow.block_types import MAX_DEVICE_BLOCKS, device_of
from thincow.engine.row_repair import Ranges
from thincow.store.devices_table import DeviceRow


class LossReason(StrEnum):
    """Why a content is not, or may not be, what it was; the value is the text that users see."""

    LOST = "lost: what upstream has there is shown"
    CHECKSUM = "damaged: differs from its checksum, shown as it is stored"
    HASH = "may be damaged: is not what its hash entry says"
    FLUSHING = "may be damaged: shows what a flush may have overwritten"
    OLDER = "may be older than what was synced, or other blocks' content: commits are missing"
    MAP = "may be lost where it was written: parts of the map are missing"


@dataclass(frozen=True, slots=True)
class Loss:
    """A range of a device."""

    device: str
    offset_bytes: int
    length_bytes: int
    reason: LossReason


def list_losses(
    devices: list[DeviceRow], block_size: int, reason: LossReason, ranges: Ranges
) -> list[Loss]:
    """Return runs of virtual blocks as ranges of bytes; the last block may be a partial one.

    What lies on no device was nobody's content.
    """
    by_id = {device.id: device for device in devices}
    losses = []
    first, end = ranges.merged()
    for start, stop in zip(first.tolist(), end.tolist(), strict=True):
        device = by_id.get(device_of(start))
        if device is None:
            continue
        offset = (start & (MAX_DEVICE_BLOCKS - 1)) * block_size
        length = min((stop - start) * block_size, device.seen_bytes - offset)
        if length > 0:
            losses.append(Loss(device.name, offset, length, reason))
    return losses


def whole_devices(devices: list[DeviceRow], reason: LossReason) -> list[Loss]:
    """Return all of every device."""
    return [Loss(device.name, 0, device.seen_bytes, reason) for device in devices]
