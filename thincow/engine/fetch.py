"""Reads that would block, moved out of the engine's thread.

An engine call that needs contents which are not in the page cache raises `WouldBlock` before it
has changed anything. Its `fetch` says what is needed: `run` reads it in any thread, then the call
is made again with that fetch. COW blocks stay pinned until `release`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from thincow.store.disk import Disk

Unpin = Callable[[int, int], None]


class WouldBlock(Exception):  # noqa: N818 - not an error: the call is to be made again
    """Raised when a call needs its `fetch` run first."""

    def __init__(self, fetch: "Fetch") -> None:
        super().__init__("contents are not in the page cache")
        self.fetch = fetch


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run of blocks to read: `length_bytes` of `fd` from `offset_bytes`, then zeros."""

    reference: int
    length_blocks: int
    fd: int
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """Contents of a run of blocks; blocks in `bad` (by index) could not be read."""

    reference: int
    length_blocks: int
    data: memoryview
    bad: frozenset[int]


class Fetch:
    """Contents that one engine call needs, read outside of the engine's thread."""

    def __init__(self, disk: Disk, block_size: int, unpin: Unpin) -> None:
        """Make an empty fetch; `unpin(reference, length_blocks)` is called for each run."""
        self._disk = disk
        self._block_size = block_size
        self._unpin = unpin
        self._wanted: list[Wanted] = []
        self._fetched: list[Fetched] = []
        self._pinned: list[tuple[int, int]] = []
        self._errors: list[int] = []

    def want(self, wanted: Wanted) -> None:
        """Add a run, which the caller has pinned."""
        self._pinned.append((wanted.reference, wanted.length_blocks))
        self._wanted.append(wanted)

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to `run`."""
        return bool(self._wanted)

    @property
    def has_contents(self) -> bool:
        """Whether anything was read."""
        return bool(self._fetched)

    def find(self, reference: int, length_blocks: int) -> tuple[memoryview, frozenset[int]] | None:
        """Return contents and bad blocks of a run, if it was fetched."""
        for part in self._fetched:
            at = reference - part.reference
            if at >= 0 and at + length_blocks <= part.length_blocks:
                size = self._block_size
                bad = part.bad
                if bad:
                    bad = frozenset(index - at for index in bad if at <= index < at + length_blocks)
                return part.data[at * size : (at + length_blocks) * size], bad
        return None

    def run(self) -> None:
        """Read everything wanted. Blocks; safe in any thread; read errors are recorded."""
        while self._wanted:
            wanted = self._wanted.pop()
            data = bytearray(wanted.length_blocks * self._block_size)
            bad = self._read(wanted, data)
            self._errors += [wanted.reference + index for index in bad]
            self._fetched.append(
                Fetched(wanted.reference, wanted.length_blocks, memoryview(data), frozenset(bad))
            )

    def take_errors(self) -> list[int]:
        """Return the references of blocks found bad, each once."""
        errors, self._errors = self._errors, []
        return errors

    def release(self) -> None:
        """Drop the pins. In the engine's thread, when the call has ended either way."""
        for reference, length in self._pinned:
            self._unpin(reference, length)
        self._pinned.clear()

    def _read(self, wanted: Wanted, data: bytearray) -> set[int]:
        try:
            whole = self._disk.read(wanted.fd, wanted.length_bytes, wanted.offset_bytes)
            if len(whole) == wanted.length_bytes:
                data[: len(whole)] = whole
                return set()
        except OSError:
            pass  # one bad block spoils a whole read: look at each block by itself
        bad = set()
        size = self._block_size
        for index in range(wanted.length_blocks):
            begin = index * size
            length = min(size, wanted.length_bytes - begin)
            try:
                part = self._disk.read(wanted.fd, length, wanted.offset_bytes + begin)
            except OSError:
                part = b""
            if len(part) == length:
                data[begin : begin + length] = part
            else:
                bad.add(index)
        return bad
