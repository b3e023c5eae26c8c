"""What a flush is asked to do, and how much of it at a time."""

from dataclasses import dataclass
from typing import Final

_BATCH_BYTES: Final = 64 << 20
_LARGEST_BYTES: Final = 256 << 20
_QUICK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class FlushOrder:
    """What to flush: at most `max_blocks` (None: all); `copies` lets it break cycles.

    `batch_bytes`: None begins with small batches and goes on with larger ones on quick disks.
    `names` are devices that are flushed alone (None: all are flushed). Nothing is copied then for
    the sake of others: what they show has to be flushed with them.
    """

    max_blocks: int | None = None
    copies: bool = True
    batch_bytes: int | None = None
    names: frozenset[str] | None = None


class BatchSize:
    """How many blocks to flush, and to copy, at a time.

    A batch waits for three commits and a sync, so that small ones are slow. But whoever cancels a
    flush, or freezes the mount, waits for a batch.
    """

    def __init__(self, order: FlushOrder, block_size: int) -> None:
        """Begin with the first batch of a flush."""
        self.blocks = max(1, (order.batch_bytes or _BATCH_BYTES) // block_size)
        self.copied_blocks = self.blocks
        self.most_blocks = max(1, (order.batch_bytes or _LARGEST_BYTES) // block_size)

    def note(self, seconds: float) -> None:
        """Note how long a batch took: a quick one is followed by one twice as large."""
        if seconds < _QUICK_S:
            self.blocks = min(2 * self.blocks, self.most_blocks)
