"""A process that changes the size of a file, and its content, until the mount dies under it.

It is the only one that writes to the file, one change after the other, and what each change is
follows from the seed and from what the file holds. So what is there after a kill must be what the
file was after some change, none before the last sync, or in the middle of a write.
"""

import errno
import multiprocessing
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.support.torn_writes import is_torn_write

_MAX_BYTES: Final = 300_000
_MAX_LENGTH: Final = 20_000
_SYNC_EVERY: Final = 6
_DEAD: Final = {errno.ENOTCONN, errno.ECONNABORTED}
_WAIT_S: Final = 60
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Change:
    """Writes `data` at `offset`, or gives the file the size `offset` when there is none."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        """Change a model of the file."""
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
        else:
            content.extend(bytes(max(0, self.offset - len(content))))
            content[self.offset : self.offset + len(self.data)] = self.data

    def may_be_torn(self, before: bytes, found: bytes) -> bool:
        """Tell whether a file that held `before` holds `found` while this is under way."""
        return self.data is not None and is_torn_write(before, self.offset, self.data, found)


def changes(seed: int, content: bytes) -> Iterator[tuple[Change, bytearray]]:
    """Yield what is done to a file, and what it holds after it, without end."""
    chance = random.Random(seed)
    now = bytearray(content)
    while True:
        size = len(now)
        data = chance.randbytes(chance.randint(1, _MAX_LENGTH))
        kind = chance.random()
        if size > _MAX_BYTES or kind < 0.25:
            change = Change(chance.randrange(size + 1), None)
        elif kind < 0.35:
            change = Change(size + chance.randrange(_MAX_LENGTH), None)
        elif kind < 0.65:
            change = Change(size, data)
        elif kind < 0.8:
            change = Change(size + chance.randrange(_MAX_LENGTH), data)
        else:
            change = Change(chance.randrange(size + 1), data)
        change.apply(now)
        yield change, now


class ResizingClient:
    """The process. `verdict` comes when the mount was killed and is there again."""

    def __init__(self, path: Path, seed: int, base: bytes) -> None:
        self._seed, self._base = seed, base
        self._pipe, child_end = _fork.Pipe()
        self._process = _fork.Process(target=_work, args=(path, seed, base, child_end), daemon=True)
        self._process.start()
        child_end.close()
        assert self._pipe.poll(_WAIT_S), "the client does not begin to work"
        self._pipe.recv()

    def wait(self) -> tuple[int, int]:
        """Wait for its end after the mount died; return numbers of changes: synced, begun."""
        assert self._pipe.poll(_WAIT_S), "the client does not notice that its mount is dead"
        synced, begun, error = self._pipe.recv()
        self._process.join(_WAIT_S)
        assert not error, error
        return synced, begun

    def is_possible(self, found: bytes, synced: int, begun: int) -> bool:
        """Tell whether the file may hold this, having died after so many changes."""
        before = self._base
        for number, (change, content) in enumerate(changes(self._seed, self._base)):
            if number >= synced and before == found:
                return True
            if number >= begun:
                return False
            if number >= synced and change.may_be_torn(before, found):
                return True
            before = bytes(content)
        raise AssertionError("there is always another change")


def _work(path: Path, seed: int, base: bytes, pipe: Connection) -> None:
    synced = begun = 0
    error = ""
    try:
        fd = os.open(path, os.O_RDWR)
        for number, (change, _) in enumerate(changes(seed, base), 1):
            begun = number
            _do(fd, change)
            if number % _SYNC_EVERY == 0:
                os.fsync(fd)
                synced = number
                if number == _SYNC_EVERY:
                    pipe.send("working")
    except OSError as failure:
        error = "" if failure.errno in _DEAD else repr(failure)
    if begun < _SYNC_EVERY or synced == 0:
        pipe.send("ended")
    pipe.send((synced, begun, error))


def _do(fd: int, change: Change) -> None:
    if change.data is None:
        os.ftruncate(fd, change.offset)
    else:
        taken = os.pwrite(fd, change.data, change.offset)
        if taken < len(change.data):
            raise OSError(errno.ENOTCONN, "the mount died between two requests of a write")
