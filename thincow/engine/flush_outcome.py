"""What came of a flush, and who is told how far it is. Plain values."""

from dataclasses import dataclass
from typing import Protocol


class FlushProgress(Protocol):
    """Is told how far a flush is."""

    def show(self, done_bytes: int, total_bytes: int) -> None:
        """Take what is done and what there is to do; 0 of 0 while that is not known."""


@dataclass(frozen=True, slots=True)
class DeviceOutcome:
    """What a flush did on one device, and what is still to be flushed there, in bytes."""

    name: str
    written_bytes: int
    equal_bytes: int
    left_bytes: int


@dataclass(frozen=True, slots=True)
class FlushOutcome:
    """What a flush did. `error` is why it failed, None when it did not."""

    error: str | None
    is_cancelled: bool
    devices: tuple[DeviceOutcome, ...]

    @property
    def written_bytes(self) -> int:
        """Written to all devices."""
        return sum(device.written_bytes for device in self.devices)

    @property
    def equal_bytes(self) -> int:
        """Not written, since upstream held it already."""
        return sum(device.equal_bytes for device in self.devices)

    @property
    def left_bytes(self) -> int:
        """Still to be flushed."""
        return sum(device.left_bytes for device in self.devices)
