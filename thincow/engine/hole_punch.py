"""Gives the space of free blocks back to the filesystem, which may take long: for any one thread.

Until it has ended, its blocks are free for nobody.
"""

from dataclasses import dataclass, field
from threading import Lock

from thincow.engine.free_runs import Run
from thincow.store.cow_file import CowFile


@dataclass(slots=True)
class HolePunch:
    """Punches `holes` (offset and length in bytes); `runs` are the blocks kept from use meanwhile.

    `error` is what it failed with, if it did.
    """

    file: CowFile
    holes: list[tuple[int, int]]
    runs: list[Run]
    error: OSError | None = None
    _is_done: bool = False
    _lock: Lock = field(default_factory=Lock)

    @property
    def blocks(self) -> int:
        """Number of blocks kept from use."""
        return sum(length for _, length in self.runs)

    def run(self) -> None:
        """Punch; where that goes on already, wait for its end."""
        with self._lock:
            if self._is_done:
                return
            try:
                for offset, length in self.holes:
                    self.file.punch(offset, length)
            except OSError as error:
                self.error = error
            self._is_done = True
