"""Keeps an eye on the space of a store's directories, and on the reserve for the last commit."""

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from thincow.engine.options import Tuning
from thincow.store.disk import Disk
from thincow.store.space_reserve import SpaceReserve, low_water_bytes

_log = logging.getLogger(__name__)

_TELL_AGAIN_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.02
"""Small commits, perhaps a thousand a second, look no more often while all is well."""


class SpaceWatch:
    """Warns when space runs low, and again when writes are refused for it.

    `reserve` is None for metadata in memory, and after `give_up_reserve`.
    """

    def __init__(
        self, disk: Disk, directories: list[Path], reserve: SpaceReserve | None, tuning: Tuning
    ) -> None:
        """Watch `directories`, the one of the reserve last."""
        self._disk = disk
        self._directories = list(dict.fromkeys(directories))
        self.reserve = reserve
        self._max_reserve_bytes = tuning.max_reserve_bytes
        self._low: set[Path] = set()
        self._told_at: float | None = None
        self._look_at = 0.0

    @property
    def keeps_commits_small(self) -> bool:
        """Whether so little space is left for metadata that commits should stay small."""
        return self.reserve is not None and self._directories[-1] in self._low

    @property
    def lacks_reserve(self) -> bool:
        """Whether the reserve was given up, or could not be taken."""
        return self.reserve is not None and not self.reserve.is_held

    def look(self) -> bool:
        """Take the reserve back and see what is left; tell whether writes may be taken."""
        self._look_at = time.monotonic() + _LOOK_AGAIN_S
        try:
            is_held = self.reserve is None or self.reserve.hold()
            for directory in self._directories:
                self._compare(directory)
        except OSError as error:
            _log.error("space cannot be watched, nor the reserve kept: %s", error.strerror)
            return True
        return is_held

    def look_again(self) -> bool:
        """Look as `look` does, unless that was a moment ago and nothing was wanting."""
        is_well = not self._low and not self.lacks_reserve
        return (is_well and time.monotonic() < self._look_at) or self.look()

    def note_refusal(self, reason: Exception) -> None:
        """Say now and then that writes are refused for lack of space."""
        now = time.monotonic()
        if self._told_at is None or now - self._told_at >= _TELL_AGAIN_S:
            self._told_at = now
            _log.warning("a write was refused: %s", reason)

    def give_up_reserve(self) -> None:
        """Let what comes use all the space there is."""
        reserve, self.reserve = self.reserve, None
        if reserve is not None:
            with suppress(OSError):
                reserve.release()

    def _compare(self, directory: Path) -> None:
        total, left = self._disk.filesystem_bytes(directory)
        if left >= low_water_bytes(total, self._max_reserve_bytes):
            if directory in self._low:
                self._low.discard(directory)
                _log.warning("there is space again in %s", directory)
        elif directory not in self._low:
            self._low.add(directory)
            _log.warning(
                "space runs low in %s: %d KiB are left; when it is full, writes that need space "
                "fail until there is some",
                directory,
                left >> 10,
            )
