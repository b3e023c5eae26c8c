"""What the kernel says is mounted where. Reads /proc only: looking never touches a mount."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thincow.mount.options import FILESYSTEM_TYPE

_MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the kernel's mount table.

    Attributes:
        device: the `major:minor` of the filesystem; no two live filesystems share it.
        path: where it is mounted.
        options: of the filesystem itself, such as `user_id`.
    """

    device: str
    path: Path
    filesystem_type: str
    source: str
    options: dict[str, str]

    @property
    def is_thincow(self) -> bool:
        """Whether a thincow, dead or alive, made this mount."""
        return self.filesystem_type == FILESYSTEM_TYPE


def read_mount_table() -> list[MountEntry]:
    """Return all mounts that this process can see, in the order they were made."""
    return [_parse(line) for line in _MOUNT_TABLE.read_bytes().splitlines()]


def find_mount(path: Path) -> MountEntry | None:
    """Return the uppermost mount whose mount point is `path` (absolute, links resolved)."""
    found = None
    for entry in read_mount_table():
        if entry.path == path:
            found = entry
    return found


def _parse(line: bytes) -> MountEntry:
    before, _, after = line.partition(b" - ")
    fields = before.split(b" ")
    filesystem_type, source, options = (*after.split(b" ", 2), b"", b"")[:3]
    pairs = (option.partition("=") for option in os.fsdecode(options).split(","))
    return MountEntry(
        device=os.fsdecode(fields[2]),
        path=Path(_unescape(fields[4])),
        filesystem_type=os.fsdecode(filesystem_type),
        source=_unescape(source),
        options={name: value for name, _, value in pairs},
    )


def _unescape(field: bytes) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
