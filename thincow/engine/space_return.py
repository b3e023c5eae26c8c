"""When the filesystem gets back the space of free blocks of `cowdata`, and in which thread."""

import logging
from typing import Final

from thincow.engine.cow_store import CowStore
from thincow.engine.hole_punch import HolePunch

_log = logging.getLogger(__name__)

_RUNS: Final = 256
_AFTER_BYTES: Final = 1 << 20


class SpaceReturn:
    """Gives back some of the free space after each commit.

    `is_left`: only `begin` and `end` do, called by somebody who has a thread for what may take
    as long as a tenth of a second for 64 MiB.
    """

    def __init__(self, cow: CowStore) -> None:
        """Give back space of one COW store."""
        self._cow = cow
        self.is_left = False

    def after_commit(self, *, at_once: bool) -> None:
        """Give back what has come together; `at_once`, since space is short, even what is left.

        Raises:
            OSError: when the filesystem fails; the blocks stay reusable.
        """
        is_ours = at_once or not self.is_left
        if is_ours and (self._is_due or self._cow.is_punching):
            self._cow.punch(_RUNS)

    def begin(self) -> HolePunch | None:
        """Return what is to be run in any thread before `end`; None when there is little to do."""
        if self._cow.is_punching or not self._is_due:
            return None
        return self._cow.begin_punch(_RUNS)

    def end(self, punch: HolePunch) -> None:
        """Take the outcome of a punch that was run."""
        try:
            self._cow.end_punch(punch)
        except OSError as error:
            _log.warning("free space of cowdata cannot be given back: %s", error.strerror)

    @property
    def _is_due(self) -> bool:
        return self._cow.holding_bytes > _AFTER_BYTES
