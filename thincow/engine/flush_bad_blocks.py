"""Blocks that a flush could not write, or not copy out of the way: which they are, and why."""

import logging
from collections.abc import Mapping

from thincow.engine.block_ranges import BlockRanges
from thincow.engine.flush_source import Source
from thincow.engine.runs import Int64Array

_log = logging.getLogger(__name__)


class BadBlocks:
    """What went wrong with single blocks in one flush, by block address."""

    def __init__(self, source: Source) -> None:
        """Start without any; `source` knows the names of devices."""
        self._source = source
        self._reasons: dict[int, str] = {}
        self.unwritten = BlockRanges.of(())
        """Blocks that were not written. They are not tried again."""
        self.unreadable = BlockRanges.of(())
        """Blocks whose contents upstream cannot be copied. Others show them, so they stay."""

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._reasons)

    def note_unwritten(self, reasons: Mapping[int, str]) -> None:
        """Note blocks that were not written, and why."""
        self.unwritten = self.unwritten.plus(_addresses(reasons))
        self._note(reasons)

    def note_unreadable(self, reasons: Mapping[int, str]) -> None:
        """Note blocks that cannot be copied, and why."""
        self.unreadable = self.unreadable.plus(_addresses(reasons))
        self._note({at: f"cannot be read: {reason}" for at, reason in reasons.items()})

    def forget(self, addresses: Int64Array) -> None:
        """Forget blocks that were written after all, since clients rewrote who showed them."""
        for address in addresses[self.unreadable.contains(addresses)].tolist():
            self._reasons.pop(address, None)

    def describe(self) -> str:
        """Return one line."""
        first = next(iter(self._reasons.values()))
        more = f" (and {len(self._reasons) - 1} more blocks, see the log)"
        return f"{first}{more if len(self._reasons) > 1 else ''}"

    def _note(self, reasons: Mapping[int, str]) -> None:
        for address, reason in sorted(reasons.items()):
            self._reasons[address] = f"{self._source.describe(address)}: {reason}"
            _log.error("flush: %s", self._reasons[address])


def _addresses(reasons: Mapping[int, str]) -> BlockRanges:
    return BlockRanges.of((address, 1) for address in reasons)
