"""Random operations on one device file, which is cut and grows, compared with a plain model.

Made after `fsx`. The kernel's page cache can hide from a
client that a write was lost, so there are three ways, each of which makes the client read back:
O_DIRECT; through the cache while another thread keeps dropping it; and a mount without a cache.
"""

import contextlib
import mmap
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Final

from tests.support.mounting import Mount

_SIZE: Final = (1 << 20) + 1234
_MAX_SIZE: Final = _SIZE + (1 << 18)
_BLOCK: Final = 4096
_SECTOR: Final = 512
_MAX_LENGTH: Final = 32 * 1024
_LETTERS: Final = 5
_RESTART_EVERY: Final = 2500
_fork = multiprocessing.get_context("fork")


class Way(StrEnum):
    """How the client sees what is stored."""

    DIRECT = "direct"
    CACHED = "cached"
    UNCACHED_MOUNT = "direct_io"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to; `mismatch` is empty when all was right."""

    operations: int
    restarts: int
    seconds: float
    mismatch: str


class MismatchError(Exception):
    """Raised when the file does not hold what was written to it."""


def run(mount: Mount, way: Way, seed: int, operations: int) -> Outcome:
    """Do random operations in a process of its own: a bad page would end it with SIGBUS.

    Args:
        mount: not mounted, without upstream; it is not mounted at the end either.
        way: how reads are made to reach the store.
        seed: decides everything.
        operations: how many.
    """
    mount.add("file", random.Random(seed).randbytes(_SIZE))
    pipe, child_end = _fork.Pipe()
    process = _fork.Process(
        target=_run_in_child, args=(mount, way, seed, operations, child_end), daemon=True
    )
    process.start()
    child_end.close()
    try:
        outcome: Outcome = pipe.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"seed {seed}: the client ended: {process.exitcode}") from None
    process.join()
    return outcome


def _run_in_child(mount: Mount, way: Way, seed: int, operations: int, pipe: Connection) -> None:
    begun = time.monotonic()
    fsx = _Fsx(mount, way, seed)
    mismatch = ""
    try:
        fsx.run(operations)
    except MismatchError as error:
        mismatch = f"seed {seed}, {way}, operation {fsx.done}: {error}"
    pipe.send(Outcome(fsx.done, fsx.restarts, time.monotonic() - begun, mismatch))


class _Fsx:
    def __init__(self, mount: Mount, way: Way, seed: int) -> None:
        self.done = 0
        self.restarts = 0
        self._mount = mount
        self._way = way
        self._path = mount.devs / "file"
        self._random = random.Random(seed)
        self._model = bytearray((mount.upstream / "file").read_bytes())
        self._letters = [self._random.randbytes(_BLOCK) for _ in range(_LETTERS)]
        self._buffer = mmap.mmap(-1, _MAX_LENGTH)
        self._fd = -1
        self._recent: list[str] = []
        mapped = 12
        self._operations: dict[Callable[[int, int], None], float] = {
            self._read: 35,
            self._write: 30,
            self._mapped_read: mapped,
            self._sync: 2,
            self._reopen: 1,
            self._resize: 4,
            self._append: 4,
        }
        if way is not Way.UNCACHED_MOUNT:  # the kernel maps nothing shared there
            self._operations[self._mapped_write] = mapped

    def run(self, operations: int) -> None:
        """Do a number of operations, restarting the mount now and then."""
        options = ("-o", "direct_io") if self._way is Way.UNCACHED_MOUNT else ()
        while self.done < operations:
            self._mount.start(*options)
            with self._opened():
                self._compare_all()
                for _ in range(min(_RESTART_EVERY, operations - self.done)):
                    self._step()
                self._compare_all()
                kills = self._random.random() < 0.5
                if kills:
                    os.fsync(self._fd)
            self._mount.kill() if kills else self._mount.umount()
            self.restarts += 1
        self._mount.start(*options)
        with self._opened():
            self._compare_all()
        self._mount.umount()

    @contextlib.contextmanager
    def _opened(self) -> Iterator[None]:
        self._open()
        ended = threading.Event()
        dropper = threading.Thread(target=self._drop_caches, args=(ended,))
        if self._way is Way.CACHED:
            dropper.start()
        try:
            yield
        finally:
            ended.set()
            if self._way is Way.CACHED:
                dropper.join()
            os.close(self._fd)

    def _drop_caches(self, ended: threading.Event) -> None:
        fd = os.open(self._path, os.O_RDONLY)
        while not ended.wait(0.002):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | (os.O_DIRECT if self._way is Way.DIRECT else 0))

    def _step(self) -> None:
        operation = self._random.choices(list(self._operations), list(self._operations.values()))[0]
        offset, length = self._range()
        self._recent = [*self._recent[-9:], f"{operation.__name__} {offset} {length}"]
        operation(offset, length)
        self.done += 1

    def _range(self) -> tuple[int, int]:
        unit = self._random.choice((_BLOCK, _SECTOR, 1))
        if self._way is Way.DIRECT:
            unit = max(unit, _SECTOR)
        size = len(self._model)
        offset = self._random.randrange(max(1, size)) // unit * unit
        most = self._random.choice((_MAX_LENGTH, 2 * _BLOCK, unit))
        length = -(-self._random.randint(1, most) // unit) * unit
        return offset, min(length, size - offset)

    def _read(self, offset: int, length: int) -> None:
        # Direct requests want lengths of whole sectors, also at the end of the file.
        asked = -(-length // _SECTOR) * _SECTOR if self._way is Way.DIRECT else length
        with memoryview(self._buffer)[:asked] as buffer:
            got = os.preadv(self._fd, [buffer], offset)
        self._compare(offset, length, self._buffer[: min(got, length)])

    def _write(self, offset: int, length: int) -> None:
        data = self._content(offset, length)
        self._model[offset : offset + length] = data
        self._buffer[:length] = data
        with memoryview(self._buffer)[:length] as buffer:
            taken = os.pwrite(self._fd, buffer, offset)
        if taken != length:
            raise self._mismatch(f"{taken} bytes taken of {length}")

    def _resize(self, _offset: int, _length: int) -> None:
        unit = _SECTOR if self._way is Way.DIRECT else self._random.choice((_BLOCK, _SECTOR, 1))
        near = len(self._model) + self._random.randint(-2 * _BLOCK, 2 * _BLOCK)
        size = self._random.choice((near, near, self._random.randrange(_MAX_SIZE), 0, _SIZE))
        size = max(0, min(size, _MAX_SIZE)) // unit * unit
        os.ftruncate(self._fd, size)
        del self._model[size:]
        self._model.extend(bytes(size - len(self._model)))
        if os.fstat(self._fd).st_size != size:
            raise self._mismatch(f"{os.fstat(self._fd).st_size} bytes, not {size}")

    def _append(self, _offset: int, length: int) -> None:
        """Write behind the end, or across it."""
        unit = _SECTOR if self._way is Way.DIRECT else 1
        end = -(-len(self._model) // unit) * unit
        offset = end + self._random.choice((0, 0, -unit, self._random.randrange(2 * _BLOCK)))
        offset = max(0, offset) // unit * unit
        length = -(-max(1, min(length, _MAX_SIZE - offset)) // unit) * unit
        if offset + length <= _MAX_SIZE:
            self._model.extend(bytes(max(0, offset - len(self._model))))
            self._write(offset, length)

    def _mapped_read(self, offset: int, length: int) -> None:
        if not length:
            return
        kind = mmap.MAP_PRIVATE if self._way is Way.UNCACHED_MOUNT else mmap.MAP_SHARED
        with mmap.mmap(self._fd, 0, flags=kind, prot=mmap.PROT_READ) as mapped:
            self._compare(offset, length, mapped[offset : offset + length])

    def _mapped_write(self, offset: int, length: int) -> None:
        if not length:
            return
        data = self._content(offset, length)
        self._model[offset : offset + length] = data
        with mmap.mmap(self._fd, 0) as mapped:
            mapped[offset : offset + length] = data
            if self._random.random() < 0.1:
                mapped.flush()

    def _sync(self, _offset: int, _length: int) -> None:
        self._random.choice((os.fsync, os.fdatasync))(self._fd)

    def _reopen(self, _offset: int, _length: int) -> None:
        os.close(self._fd)
        self._open()

    def _content(self, offset: int, length: int) -> bytes:
        kind = self._random.random()
        if kind < 0.5:
            return self._random.randbytes(length)
        if kind < 0.6:
            return bytes(length)
        if kind < 0.75:
            start = offset % _BLOCK
            letter = self._random.choice(self._letters)
            return (letter * (length // _BLOCK + 2))[start : start + length]
        at = self._random.randrange(max(1, len(self._model) - length + 1))
        if kind < 0.95:  # shifted by whole blocks, so that it can be deduplicated
            at = max(0, at - (at - offset) % _BLOCK)
        return bytes(self._model[at : at + length]).ljust(length, b"\0")

    def _compare_all(self) -> None:
        if self._way is not Way.UNCACHED_MOUNT:
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = len(self._model)
        if os.fstat(self._fd).st_size != size:
            raise self._mismatch(f"{os.fstat(self._fd).st_size} bytes, not {size}")
        for offset in range(0, size, _MAX_LENGTH):
            self._read(offset, min(_MAX_LENGTH, size - offset))

    def _compare(self, offset: int, length: int, found: bytes) -> None:
        expected = self._model[offset : offset + length]
        if found == expected:
            return
        if len(found) != length:
            raise self._mismatch(f"{len(found)} bytes read of {length} at {offset}")
        first = next(n for n in range(length) if found[n] != expected[n])
        raise self._mismatch(f"byte {offset + first} is {found[first]}, not {expected[first]}")

    def _mismatch(self, what: str) -> MismatchError:
        return MismatchError(f"{what}; last operations: {'; '.join(self._recent)}")
