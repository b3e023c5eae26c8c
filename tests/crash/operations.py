"""What reaches a disk, as a list of operations, and what of it a power cut may leave.

A `DiskImage` follows the operations: what is durable, and what is still waiting for a sync. Files
are numbered (like inodes); names are paths relative to the root of the simulated disk. A sync of a
file makes its contents and size durable, not its name: that takes a sync of its directory.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

SECTOR = 512


class ContentOperation(Protocol):
    """A change of one file's contents or size."""

    file: int

    def apply(self, content: bytearray) -> None:
        """Do it."""


@dataclass(frozen=True, slots=True)
class Write:
    file: int
    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        extend(content, self.offset)
        content[self.offset : self.offset + len(self.data)] = self.data

    def sectors(self) -> list["Write"]:
        """Split at sector boundaries: what a cut can tear apart."""
        parts = []
        at = 0
        while at < len(self.data):
            length = SECTOR - (self.offset + at) % SECTOR
            parts.append(Write(self.file, self.offset + at, self.data[at : at + length]))
            at += length
        return parts


@dataclass(frozen=True, slots=True)
class Resize:
    """Truncate, or extend by zeros."""

    file: int
    size: int

    def apply(self, content: bytearray) -> None:
        extend(content, self.size)
        del content[self.size :]


@dataclass(frozen=True, slots=True)
class Claim:
    """Allocate space: the file is at least `end` bytes long afterwards."""

    file: int
    end: int

    def apply(self, content: bytearray) -> None:
        extend(content, self.end)


@dataclass(frozen=True, slots=True)
class Punch:
    file: int
    offset: int
    length: int

    def apply(self, content: bytearray) -> None:
        end = min(self.offset + self.length, len(content))
        if end > self.offset:
            content[self.offset : end] = bytes(end - self.offset)


@dataclass(frozen=True, slots=True)
class Sync:
    """A sync of a file. When it failed, what it covered is on disk or not, for good."""

    file: int
    succeeded: bool = True


@dataclass(frozen=True, slots=True)
class Link:
    """A new name for a file; `file` None makes a directory."""

    path: str
    file: int | None

    def apply(self, names: dict[str, int | None]) -> None:
        names[self.path] = self.file


@dataclass(frozen=True, slots=True)
class Rename:
    path: str
    target: str

    def apply(self, names: dict[str, int | None]) -> None:
        if self.path in names:
            names[self.target] = names.pop(self.path)


@dataclass(frozen=True, slots=True)
class Unlink:
    path: str

    def apply(self, names: dict[str, int | None]) -> None:
        names.pop(self.path, None)


@dataclass(frozen=True, slots=True)
class SyncDirectory:
    path: str


Contents = Write | Resize | Claim | Punch
Naming = Link | Rename | Unlink
Operation = Contents | Naming | Sync | SyncDirectory


@dataclass
class DiskImage:
    """A disk in the middle of things.

    `names` and `files` are what is durable; `pending` (by file) and `pending_names` what waits for
    a sync; `orphans` what a failed sync covered: nobody waits for it any more.
    """

    names: dict[str, int | None] = field(default_factory=dict)
    files: dict[int, bytes] = field(default_factory=dict)
    pending: dict[int, list[Contents]] = field(default_factory=dict)
    pending_names: list[Naming] = field(default_factory=list)
    orphans: dict[int, list[Contents]] = field(default_factory=dict)

    @classmethod
    def of(cls, contents: dict[str, bytes | None]) -> "DiskImage":
        """Make an image in which all is durable: path -> contents, None for a directory."""
        image = cls()
        for number, (path, content) in enumerate(contents.items(), 1):
            image.names[path] = None if content is None else number
            if content is not None:
                image.files[number] = content
        return image

    def copy(self) -> "DiskImage":
        return DiskImage(
            dict(self.names),
            dict(self.files),
            {file: list(waiting) for file, waiting in self.pending.items()},
            list(self.pending_names),
            {file: list(lost) for file, lost in self.orphans.items()},
        )

    def advance(self, operation: Operation) -> None:
        """Follow one operation."""
        if isinstance(operation, Sync):
            self._sync(operation)
        elif isinstance(operation, SyncDirectory):
            self._sync_directory(operation.path)
        elif isinstance(operation, Link | Rename | Unlink):
            self.pending_names.append(operation)
        else:
            self.pending.setdefault(operation.file, []).append(operation)

    def _sync(self, operation: Sync) -> None:
        covered = self.pending.pop(operation.file, [])
        if not operation.succeeded:
            self.orphans.setdefault(operation.file, []).extend(covered)
        elif covered:
            self.files[operation.file] = self.content(operation.file, covered)
            lost = self.orphans.get(operation.file, [])
            self.orphans[operation.file] = [
                orphan for orphan in lost if not any(overlap(orphan, later) for later in covered)
            ]

    def _sync_directory(self, path: str) -> None:
        waiting = []
        for operation in self.pending_names:
            if directory_of(operation.path) == path:
                operation.apply(self.names)
            else:
                waiting.append(operation)
        self.pending_names = waiting

    def content(self, file: int, operations: Iterable[Contents]) -> bytes:
        """Return the durable content of a file with some operations done on it."""
        content = bytearray(self.files.get(file, b""))
        for operation in operations:
            operation.apply(content)
        return bytes(content)

    def durable(self, prefix: str) -> dict[str, bytes | None]:
        """Return the durable files whose paths begin so."""
        return {
            path: self.files.get(file, b"")
            for path, file in self.names.items()
            if file is not None and path.startswith(prefix)
        }

    def newest(self) -> dict[str, bytes | None]:
        """Return what a process sees that looks now: everything, synced or not."""
        names = dict(self.names)
        for operation in self.pending_names:
            operation.apply(names)
        return {
            path: None
            if file is None
            else self.content(file, [*self.orphans.get(file, ()), *self.pending.get(file, ())])
            for path, file in names.items()
        }


def directory_of(path: str) -> str:
    return path.rpartition("/")[0]


def extend(content: bytearray, size: int) -> None:
    if len(content) < size:
        content.extend(bytes(size - len(content)))


def overlap(first: Contents, second: Contents) -> bool:
    """Tell whether two operations concern the same bytes; a resize concerns all of them."""
    ranges = [
        (operation.offset, operation.offset + len(operation.data))
        if isinstance(operation, Write)
        else (operation.offset, operation.offset + operation.length)
        if isinstance(operation, Punch)
        else (0, 1 << 62)
        for operation in (first, second)
    ]
    return max(ranges[0][0], ranges[1][0]) < min(ranges[0][1], ranges[1][1])
