"""Times the engine by itself, without FUSE: what a request costs inside it.

Commits run between timed requests, as they would in another thread, and are timed by themselves.
"""

import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from thincow.engine.device import Device
from thincow.engine.engine import Engine, open_engine
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.options import StoreOptions
from thincow.store.disk import Disk

MIB = 1 << 20
_SMALL = 4096
WARM_UP_REQUESTS = 64
"""Requests before the timed ones; those of known data repeat what these have written."""
_SWITCH_INTERVAL_S = 0.0002
_US = 1e6


@dataclass(slots=True)
class EngineBench:
    """An open engine with one device."""

    engine: Engine
    device: Device
    commit_s: float = 0.0

    def read(self, offset: int, length: int) -> None:
        """Read as the mount does."""
        fetch: Fetch | None = None
        while True:
            try:
                self.engine.read(self.device, offset, length, fetch)
                break
            except WouldBlock as blocked:
                fetch = blocked.fetch
                fetch.run()
        if fetch is not None:
            fetch.release()

    def write(self, offset: int, data: bytes) -> None:
        """Write as the mount does."""
        fetch: Fetch | None = None
        while True:
            try:
                self.engine.write(self.device, offset, data, fetch)
                break
            except WouldBlock as blocked:
                fetch = blocked.fetch
                fetch.run()
        if fetch is not None:
            fetch.release()

    def commit(self) -> None:
        """Commit, and count the time."""
        begin = time.perf_counter()
        self.engine.commit()
        self.commit_s += time.perf_counter() - begin


@contextmanager
def opened(options: StoreOptions, disk: Disk | None = None) -> Iterator[EngineBench]:
    """Open a store on the first of its devices."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    engine = open_engine(options, disk)
    try:
        yield EngineBench(engine, engine.devices[0])
    finally:
        engine.close()


def time_requests(bench: EngineBench, request: Callable[[int], object], seconds: float) -> float:
    """Return the microseconds that a request takes, commits left out."""
    for number in range(WARM_UP_REQUESTS):
        request(number)
    bench.commit()
    spent = 0.0
    for number in itertools.count(WARM_UP_REQUESTS):
        begin = time.perf_counter()
        request(number)
        spent += time.perf_counter() - begin
        if bench.engine.commit_due:
            bench.commit()
        if spent >= seconds:
            return spent / (number + 1 - WARM_UP_REQUESTS) * _US
    raise AssertionError("never comes here")


def requests(bench: EngineBench, working_bytes: int) -> dict[str, Callable[[int], object]]:
    """Return the requests that a profile looks at, each for a fresh store.

    Random data come out of a pool that is shifted by a few bytes each time it has been used up: to
    make them anew would take longer than to write them.
    """
    small = working_bytes // _SMALL
    large = max(1, working_bytes // MIB)
    pool = os.urandom(64 * MIB + _SMALL)

    def content(number: int, length: int) -> bytes:
        shift, at = divmod(number, 64 * MIB // length)
        start = at * length + shift % _SMALL
        return pool[start : start + length]

    def write_synced(number: int) -> None:
        bench.write(random.randrange(small) * _SMALL, content(number + 7, _SMALL))
        bench.engine.commit()

    return {
        "read-4k": lambda _: bench.read(random.randrange(small) * _SMALL, _SMALL),
        "write-4k": lambda number: bench.write(
            random.randrange(small) * _SMALL, content(number, _SMALL)
        ),
        "write-1m-new": lambda number: bench.write(number % large * MIB, content(number + 3, MIB)),
        "write-1m-duplicate": lambda number: bench.write(
            number % large * MIB, content(number % WARM_UP_REQUESTS + 3, MIB)
        ),
        "commit": write_synced,
    }
