"""Processes that write to mounted devices until the mount dies under them, and say what they did.

Two clients share every device, each with stripes of its own, so that what one of them syncs and
what the other one does meet in the same commits.
"""

import errno
import mmap
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.support.block_history import SECTOR, BlockHistory, stamped

_STRIPE_UNITS: Final = 16
_CLIENTS: Final = 2
_DEAD: Final = {errno.ENOTCONN, errno.ECONNABORTED}
_WAIT_S: Final = 60
_fork = multiprocessing.get_context("fork")


@dataclass
class ClientReport:
    """What a client did until its mount died."""

    history: BlockHistory
    synced_ns: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    syncs: int = 0
    refused: int = 0
    longest_call_s: float = 0.0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """How a client works.

    `number`: 0 or 1, which stripes it owns; `syncs`: whether it ever asks for durability;
    `direct`: opens with O_DIRECT; `original`: upstream's content; `pause_s`: longest pause
    between two writes; `retries_when_full`: goes on after ENOSPC.
    """

    devices: Path
    number: int
    seed: int
    original: dict[str, bytes]
    syncs: bool
    direct: bool = False
    pause_s: float = 0.0
    retries_when_full: bool = False


class RunningClient:
    """A client process. `wait_until_working` comes first, `report` when the mount is dead."""

    def __init__(self, plan: ClientPlan, history: BlockHistory) -> None:
        self._pipe, child_end = _fork.Pipe()
        client = _Client(plan, history, child_end)
        self._process = _fork.Process(target=client.run, daemon=True)
        self._process.start()
        child_end.close()

    def wait_until_working(self) -> None:
        """Return when it has written, and synced if it does so at all (or has failed)."""
        assert self._pipe.poll(_WAIT_S), "the client does not begin to work"
        self._pipe.recv()

    def report(self) -> ClientReport:
        """Wait for the client's end and return what it did."""
        assert self._pipe.poll(_WAIT_S), "the client does not notice that its mount is dead"
        report: ClientReport = self._pipe.recv()
        self._process.join(_WAIT_S)
        assert not self._process.is_alive()
        return report


class _Client:
    def __init__(self, plan: ClientPlan, history: BlockHistory, pipe: Connection) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._report = ClientReport(history)
        self._pipe = pipe
        self._stripe = _STRIPE_UNITS * history.unit
        self._descriptors: dict[str, int] = {}
        self._has_begun = False
        buffer_bytes = -(-self._stripe // mmap.PAGESIZE) * mmap.PAGESIZE
        self._aligned = mmap.mmap(-1, buffer_bytes)

    def run(self) -> None:
        try:
            self._work()
        except OSError as error:
            if error.errno not in _DEAD:
                self._report.error = repr(error)
        except Exception as error:  # noqa: BLE001 - the parent tells
            self._report.error = repr(error)
        if not self._has_begun:
            self._pipe.send("ended")
        self._pipe.send(self._report)

    def _work(self) -> None:
        direct = os.O_DIRECT if self._plan.direct else 0
        for name in self._plan.original:
            self._descriptors[name] = os.open(self._plan.devices / name, os.O_RDWR | direct)
        while True:
            for _ in range(self._random.randint(1, 8)):
                self._write()
                if self._plan.pause_s:
                    time.sleep(self._random.uniform(0, self._plan.pause_s))
            if self._plan.syncs:
                self._sync()
            if not self._has_begun and (self._report.syncs or not self._plan.syncs):
                self._has_begun = True
                self._pipe.send("working")

    def _write(self) -> None:
        history = self._report.history
        name, offset, length = self._range()
        self._report.writes += 1
        data = self._content(name, offset, length)
        touched = history.begin_write(name, offset, data)
        self._call(lambda: self._put(self._descriptors[name], data, offset))
        history.end_write(touched)

    def _put(self, fd: int, data: bytes, offset: int) -> None:
        self._aligned[: len(data)] = data
        taken = 0
        # A mount that dies between two requests of one write leaves a short count.
        while taken < len(data):
            with memoryview(self._aligned)[taken : len(data)] as rest:
                taken += os.pwrite(fd, rest, offset + taken)

    def _sync(self) -> None:
        names = list(self._descriptors)
        name = self._random.choice(names[:1] * 3 + names)
        sync = self._random.choice((os.fsync, os.fdatasync))
        begun_ns = time.monotonic_ns()
        self._call(lambda: sync(self._descriptors[name]))
        self._report.syncs += 1
        self._report.synced_ns[name] = begun_ns
        self._report.history.forget_before(name, begun_ns)

    def _call(self, request: Callable[[], None]) -> None:
        while True:
            begun = time.monotonic()
            try:
                request()
            except OSError as error:
                if error.errno != errno.ENOSPC or not self._plan.retries_when_full:
                    raise
                self._report.refused += 1
                time.sleep(0.02)
            else:
                return
            finally:
                took_s = time.monotonic() - begun
                self._report.longest_call_s = max(self._report.longest_call_s, took_s)

    def _range(self) -> tuple[str, int, int]:
        """Choose a part of a stripe of ours: whole units most of the time."""
        name, start, end = self._choose_stripe()
        size = self._report.history.unit
        if self._random.random() < 0.6:
            blocks = -(-(end - start) // size)
            first = self._random.randrange(blocks)
            low = start + first * size
            high = min(end, low + self._random.randint(1, blocks - first) * size)
        else:
            low = self._random.randrange(start, end)
            high = self._random.randrange(low, end) + 1
        if self._plan.direct:
            low -= low % SECTOR
            high = min(end, -(-high // SECTOR) * SECTOR)
        return name, low, high - low

    def _choose_stripe(self) -> tuple[str, int, int]:
        while True:
            name = self._random.choice(list(self._plan.original))
            size = len(self._plan.original[name])
            stripe = self._random.randrange(-(-size // self._stripe))
            if stripe % _CLIENTS == self._plan.number:
                start = stripe * self._stripe
                return name, start, min(start + self._stripe, size)

    def _content(self, name: str, offset: int, length: int) -> bytes:
        kind = self._random.random()
        if kind < 0.1:
            return bytes(length)
        if kind < 0.2:
            return self._plan.original[name][offset : offset + length]
        if kind < 0.4:
            copied = self._copy(offset, length)
            if copied is not None:
                return copied
        return stamped(self._plan.number, self._report.writes, offset, length)

    def _copy(self, offset: int, length: int) -> bytes | None:
        """Return what another stripe of ours holds at the same place in it."""
        name, start, end = self._choose_stripe()
        at = start + offset % self._stripe
        if at + length > end:
            return None
        history = self._report.history
        size = history.unit
        blocks = range(at // size, -(-(at + length) // size))
        content = b"".join(history.now(name, block) for block in blocks)
        return content[at % size : at % size + length]


def start_clients(plans: list[ClientPlan], base: dict[str, bytes], unit: int) -> "Clients":
    """Start clients of different numbers, and return when all of them work."""
    running = [RunningClient(plan, BlockHistory(base, unit)) for plan in plans]
    for client in running:
        client.wait_until_working()
    return Clients(running, base, unit)


class Clients:
    """Clients at work on the same devices."""

    def __init__(self, running: list[RunningClient], base: dict[str, bytes], unit: int) -> None:
        self._running = running
        self._base = base
        self._unit = unit

    def reports(self) -> list[ClientReport]:
        """Wait for all after their mount died; every one of them must have done its work."""
        reports = [client.report() for client in self._running]
        for report in reports:
            assert not report.error, report.error
            assert report.writes > 0, "a client did not write"
        return reports

    def merge(self, reports: list[ClientReport]) -> tuple[BlockHistory, dict[str, int]]:
        """Put together what all did: all versions, and the last sync of each device."""
        merged = BlockHistory(self._base, self._unit)
        synced_ns: dict[str, int] = {}
        for report in reports:
            assert not merged.versions.keys() & report.history.versions.keys()
            merged.versions.update(report.history.versions)
            for name, begun_ns in report.synced_ns.items():
                synced_ns[name] = max(begun_ns, synced_ns.get(name, 0))
        return merged, synced_ns
