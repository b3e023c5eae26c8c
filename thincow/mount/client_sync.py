"""Has the kernel send what it still holds of the mount's own files, by another process."""

import errno
import os
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Final

import trio

from thincow.errors import FlushError

_CODES: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


async def sync_files(paths: Sequence[str]) -> None:
    """Sync files; cancelled, leave that to itself.

    Raises:
        FlushError: when one could not be synced.
    """
    # Not a pipe: with enough to complain about, the process would wait for somebody to read.
    with tempfile.TemporaryFile() as complaints:
        try:
            process = await trio.lowlevel.open_process(
                ["sync", "--", *paths],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-Z at the terminal is not for it
            )
        except OSError as error:
            raise _failure(f"cannot run sync: {error.strerror}", error.errno) from error
        status = await process.wait()
        if status == 0:
            return
        complaints.seek(0)
        first = complaints.read(4096).decode(errors="replace").partition("\n")[0]
    if status < 0:
        first = f"sync was ended by signal {-status}"
    code = next((code for code in _CODES if first.endswith(os.strerror(code))), errno.EIO)
    raise _failure(first or f"sync ended with status {status}", code)


def _failure(reason: str, code: int | None) -> FlushError:
    text = f"nothing was flushed, since what programs wrote cannot be saved first: {reason}"
    return FlushError(text, code or errno.EIO)
