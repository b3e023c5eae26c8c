"""A client of a mount that does what is hardest for a flush beside it, and checks all it reads.

A process of its own, so that the one that flushes need not wait for it. It alone writes to the
devices, and knows what they must show. Operations are aimed at what a flush is doing: copies of
blocks that are being overwritten, old contents that come back, blocks rewritten back and forth.
"""

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Final, Self

from tests.support.mounting import TIMEOUT_S, Mount

_LONGEST_RUN: Final = 4
_PAUSE_S: Final = 0.002
_fork = multiprocessing.get_context("fork")


class HardClient:
    """A running client. `wait` tells what the devices show at its end."""

    def __init__(self, mount: Mount, block_size: int, seed: int, operations: int) -> None:
        self._pipe, child_end = _fork.Pipe()
        work = _Work(mount, block_size, random.Random(seed))
        self._process = _fork.Process(target=work.run, args=(operations, child_end), daemon=True)
        self._process.start()
        child_end.close()

    @property
    def is_working(self) -> bool:
        """Whether it goes on."""
        return self._process.is_alive() and not self._pipe.poll()

    def wait(self) -> dict[str, bytes]:
        """Return what the devices must show, when it has ended."""
        assert self._pipe.poll(TIMEOUT_S), "the client does not end"
        outcome = self._pipe.recv()
        self._process.join()
        assert isinstance(outcome, dict), outcome
        return outcome

    @classmethod
    @contextmanager
    def at_work(cls, mount: Mount, block_size: int, seed: int, operations: int) -> Iterator[Self]:
        """Let a client work beside the block, at most as long as it."""
        client = cls(mount, block_size, seed, operations)
        try:
            yield client
        finally:
            client._process.kill()
            client._process.join()


class _Work:
    def __init__(self, mount: Mount, block_size: int, chance: random.Random) -> None:
        self._mount = mount
        self._size = block_size
        self._chance = chance
        self._shown: dict[str, bytearray] = {}
        self._first: dict[str, bytes] = {}
        self._fds: dict[str, int] = {}

    def run(self, operations: int, pipe: Connection) -> None:
        try:
            for path in sorted(self._mount.devs.iterdir()):
                self._first[path.name] = path.read_bytes()
                self._shown[path.name] = bytearray(self._first[path.name])
                self._fds[path.name] = os.open(path, os.O_RDWR)
            for _ in range(operations):
                self._operate()
                time.sleep(self._chance.uniform(0, _PAUSE_S))
            pipe.send({name: bytes(content) for name, content in self._shown.items()})
        except BaseException as error:  # noqa: BLE001 - the parent tells
            pipe.send(repr(error))

    def _operate(self) -> None:
        name, offset, length = self._choose()
        kind = self._chance.randrange(8)
        if kind == 0:
            self._write(name, offset, self._chance.randbytes(length))
        elif kind == 1:  # what the device held before all this
            self._write(name, offset, self._first[name][offset : offset + length])
        elif kind == 2:  # what is upstream at this moment: old, new, or just being replaced
            fd = os.open(self._mount.upstream / name, os.O_RDONLY)
            self._write(name, offset, os.pread(fd, length, offset))
            os.close(fd)
        elif kind == 3:  # a copy of what may be under way
            other, start, _ = self._choose()
            self._write(name, offset, bytes(self._shown[other][start : start + length]))
        elif kind == 4:  # back and forth
            before = bytes(self._shown[name][offset : offset + length])
            self._write(name, offset, self._chance.randbytes(length))
            self._write(name, offset, before)
        elif kind == 5:  # a part of a block
            self._write(name, offset + 1, self._chance.randbytes(min(length, self._size) - 2))
        elif kind == 6:
            os.fdatasync(self._fds[name])
        self._check(name, offset, length)
        self._check(*self._choose())

    def _choose(self) -> tuple[str, int, int]:
        name = self._chance.choice(sorted(self._shown))
        blocks = len(self._shown[name]) // self._size
        first = self._chance.randrange(blocks)
        count = min(self._chance.randint(1, _LONGEST_RUN), blocks - first)
        return name, first * self._size, count * self._size

    def _write(self, name: str, offset: int, data: bytes) -> None:
        assert os.pwrite(self._fds[name], data, offset) == len(data)
        self._shown[name][offset : offset + len(data)] = data

    def _check(self, name: str, offset: int, length: int) -> None:
        found = os.pread(self._fds[name], length, offset)
        assert found == self._shown[name][offset : offset + length], f"{name}, byte {offset}"
