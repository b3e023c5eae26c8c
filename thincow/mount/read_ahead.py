"""How much the kernel reads ahead of a client that reads one of our files from begin to end.

FUSE begins with 128 KiB at a time and lets a server ask for less, never for more. More can only be
had from outside, by whoever may write to the kernel's settings of the mount.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

_SETTINGS: Final = Path("/sys/class/bdi")
_KIB: Final = 512
"""Each request costs as much as some ten blocks; more than this gains little, and one unreadable
block makes the kernel ask again for each page of the whole request."""


def raise_read_ahead(device: str) -> None:
    """Let the kernel read further ahead on a mount, given as `major:minor`, if we may say so."""
    setting = _SETTINGS / device / "read_ahead_kb"
    with suppress(OSError, ValueError):
        if int(setting.read_text()) < _KIB:
            setting.write_text(str(_KIB))
