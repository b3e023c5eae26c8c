"""`debug/hold.json`: while somebody has it open, what the last commit refers to stays as it is.

Opening it commits, and tells where the store is. From before that commit until the file is closed
no COW block of it is used again, and no batch of a flush begins. A line written to it says what it
is for, and that the view of the commit has been taken: what is stored after that is not held.
"""

import errno
import json
import logging
from typing import Final

import pyfuse3

from thincow.engine.engine import Engine
from thincow.engine.held_blocks import Hold
from thincow.mount.commit_scheduler import CommitScheduler
from thincow.mount.flush_file import FlushRunner

_log = logging.getLogger(__name__)

PURPOSES: Final = ("backup", "check", "diff")


async def open_hold(
    engine: Engine, scheduler: CommitScheduler, flusher: FlushRunner, handle: int
) -> "HoldHandle":
    """Begin a hold of everything written so far.

    Raises:
        RequestError: when it cannot be committed.
    """
    hold = engine.holds.begin()
    try:
        # A flush sees the hold before its next batch.
        async with flusher.between_batches:
            await scheduler.sync()
    except BaseException:
        hold.release()
        raise
    options = engine.options
    facts = {
        "store_id": engine.store_id,
        "data_dir": str(options.data_dir),
        "metadata_dir": None if options.metadata_dir is None else str(options.metadata_dir),
        "upstream_dir": None if options.upstream_dir is None else str(options.upstream_dir),
        "read_only": engine.read_only,
    }
    return HoldHandle(handle, f"{json.dumps(facts)}\n".encode(), hold)


class HoldHandle:
    """The file, opened."""

    def __init__(self, handle: int, content: bytes, hold: Hold) -> None:
        self.info = pyfuse3.FileInfo(fh=handle, direct_io=True, keep_cache=False)
        self._content = content
        self._hold = hold

    async def read(self, offset: int, length: int) -> bytes:
        """Read where the store is."""
        return self._content[offset : offset + length]

    async def write(self, _offset: int, data: bytes) -> int:
        """Take the line that says what the hold is for."""
        purpose = data.decode("ascii", errors="replace").strip()
        if purpose not in PURPOSES or self._hold.purpose is not None:
            raise pyfuse3.FUSEError(errno.EINVAL)
        self._hold.taken(purpose)
        _log.info("%s: begun", purpose)
        return len(data)

    async def sync(self) -> None:
        """Do nothing: there is nothing to make durable."""

    async def flush(self) -> None:
        """Do nothing: other descriptors may be open."""

    def close(self) -> None:
        """Let go of what was held."""
        if self._hold.purpose is not None:
            _log.info("%s: ended", self._hold.purpose)
        self._hold.release()
