"""Kills the serving process at random instants, again and again, and looks for what was lost.

Each round: two clients write to several devices, one with syncs and one without, and a third one
lets a device of its own grow and cuts it; the process is killed; the store is mounted again on the
stale mount point, every block is compared with what it may hold, and the store is checked.
"""

import errno
import mmap
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.block_history import find_violations, stamped
from tests.support.disk_clients import ClientPlan, ClientReport, start_clients
from tests.support.mounting import Mount, thincow_command, thincow_environment
from tests.support.resizing_client import ResizingClient

_ROUNDS_A_STORE: Final = 9
_BLOCK_SIZES: Final = (4096, 512, 65536)
_OPTIONS: Final = (
    (),
    ("-o", "direct_io"),
    ("--checksum-bits", "32"),
    ("--hash-table-size", "4K", "--retroactive"),
)
_UPSTREAM: Final = 99
"""The writer that stamps what is there at first."""
_RESIZED: Final = "resized"
"""The device that changes its size."""


@dataclass
class Totals:
    """What the rounds came to."""

    rounds: int = 0
    writes: int = 0
    syncs: int = 0
    resizes: int = 0
    blocks_compared: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.writes} writes, {self.syncs} syncs, "
            f"{self.resizes} changes of a file's size, {self.blocks_compared} blocks compared, "
            f"{self.seconds:.0f} s"
        )


class KillRounds:
    """Rounds over a series of stores of different kinds.

    Args:
        directory: where the stores are made; one that fails is left there.
        seed: decides everything but the instants, which depend on the machine.
        make_mount: makes the mounts.
    """

    def __init__(
        self, directory: Path, seed: int, make_mount: Callable[[Path], Mount] = Mount
    ) -> None:
        self.totals = Totals()
        self._make_mount = make_mount
        self._directory = directory
        self._random = random.Random(seed)
        self._stores = 0

    def run(self, rounds: int) -> None:
        """Do a number of rounds.

        Raises:
            AssertionError: when something synced was lost, or a store is damaged.
        """
        begun = time.monotonic()
        while self.totals.rounds < rounds:
            mount = self._make_mount(self._directory / f"store{self._stores}")
            store = _Store(mount, self._stores, self._random, self.totals)
            self._stores += 1
            with store.mounted():
                for _ in range(min(_ROUNDS_A_STORE, rounds - self.totals.rounds)):
                    store.round()
                    self.totals.rounds += 1
        self.totals.seconds = time.monotonic() - begun


class _Store:
    """One store over its rounds."""

    def __init__(
        self, mount: Mount, number: int, random_source: random.Random, totals: Totals
    ) -> None:
        self._random = random_source
        self._totals = totals
        self._mount = mount
        self._block_size = _BLOCK_SIZES[number % len(_BLOCK_SIZES)]
        self._unit = min(self._block_size, mmap.PAGESIZE)
        self._options = _OPTIONS[number % len(_OPTIONS)]
        sizes = {"large": 3 << 20, "odd": 700_001, "small": self._block_size * 3 // 2}
        self._original = {
            name: stamped(_UPSTREAM, number, index << 32, size)
            for index, (name, size) in enumerate(sizes.items())
        }
        self._resized = stamped(_UPSTREAM, number, len(sizes) << 32, 100_001)
        for name, content in (*self._original.items(), (_RESIZED, self._resized)):
            self._mount.add(name, content)
        self._base = dict(self._original)
        self._resized_base = self._resized
        self._rounds = 0
        self._pid = 0

    @contextmanager
    def mounted(self) -> Iterator[None]:
        self._start("--block-size", str(self._block_size))
        try:
            yield
        finally:
            self._mount.close()
        for name, content in (*self._original.items(), (_RESIZED, self._resized)):
            assert (self._mount.upstream / name).read_bytes() == content, "upstream has changed"

    def round(self) -> None:
        """Let clients work, kill, mount again, compare and check."""
        self._rounds += 1
        held = self._hold_open() if self._rounds % 3 == 0 else None
        clients = start_clients(self._plans(), self._base, self._unit)
        resized = self._mount.devs / _RESIZED
        resizing = ResizingClient(resized, self._random.getrandbits(32), self._resized_base)
        time.sleep(self._random.uniform(0, 0.5))
        self._kill()
        reports = clients.reports()
        synced, begun = resizing.wait()
        self._count(reports)
        self._totals.resizes += begun
        checks_first = self._rounds % 4 != 0
        if checks_first:
            self._check()
        if self._random.random() < 0.15:
            self._kill_while_opening()
        self._start()
        history, synced_ns = clients.merge(reports)
        found = self._read_all()
        wrong = find_violations(history, found, synced_ns)
        assert not wrong, f"{self._name()}: {len(wrong)} blocks are wrong:\n" + "\n".join(wrong[:9])
        self._base = found
        self._resized_base = resized.read_bytes()
        assert resizing.is_possible(self._resized_base, synced, begun), (
            f"{self._name()}: {len(self._resized_base)} bytes of {_RESIZED} are not what it held "
            f"after any change from {synced} to {begun}"
        )
        if held is not None:
            _assert_dead(held)
        if not checks_first:
            self._mount.umount()
            self._check()
            self._start()

    def _plans(self) -> list[ClientPlan]:
        return [
            ClientPlan(
                self._mount.devs,
                number,
                self._random.getrandbits(32),
                self._original,
                syncs=number == 0,
                direct=self._random.random() < 0.3,
                pause_s=self._random.choice((0.0, 0.001, 0.004)) if number == 0 else 0.002,
            )
            for number in range(2)
        ]

    def _count(self, reports: list[ClientReport]) -> None:
        assert reports[0].syncs > 0, "the client that syncs did not sync"
        assert reports[1].syncs == 0
        self._totals.writes += sum(report.writes for report in reports)
        self._totals.syncs += reports[0].syncs

    def _kill(self) -> None:
        """Kill the process; now and then while it is ending by itself."""
        process = os.pidfd_open(self._pid)
        try:
            if self._random.random() < 0.1:
                os.kill(self._pid, signal.SIGTERM)
                time.sleep(self._random.uniform(0, 0.03))
            try:
                signal.pidfd_send_signal(process, signal.SIGKILL)
            except ProcessLookupError:
                return  # it was quicker
            ready, _, _ = select.select([process], [], [], 60)
            assert ready, f"process {self._pid} cannot be killed"
        finally:
            os.close(process)

    def _kill_while_opening(self) -> None:
        with subprocess.Popen(
            thincow_command(*self._mount.arguments("-f", *self._options)),
            env=thincow_environment(),
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(self._random.uniform(0, 0.4))
            process.kill()

    def _start(self, *options: str) -> None:
        self._mount.start(*options, *self._options)
        self._pid = self._mount.pid

    def _check(self) -> None:
        done = self._mount.fsck()
        assert done.returncode == 0, f"{self._name()}: {done.stdout}{done.stderr}"

    def _hold_open(self) -> int:
        fd = os.open(self._mount.devs / "large", os.O_RDWR)
        os.pread(fd, 512, 0)
        return fd

    def _read_all(self) -> dict[str, bytes]:
        found = {name: (self._mount.devs / name).read_bytes() for name in self._original}
        self._totals.blocks_compared += sum(
            -(-len(content) // self._unit) for content in found.values()
        )
        return found

    def _name(self) -> str:
        return f"{self._mount.directory} (block size {self._block_size}, {self._options})"


def _assert_dead(fd: int) -> None:
    """A file that was open on the dead mount must say so, and not hinder anything."""
    for request in (os.fsync, lambda fd: os.pwrite(fd, b"late", 0), os.close):
        with pytest.raises(OSError, match=r"not connected|connection abort") as caught:
            request(fd)
        assert caught.value.errno in {errno.ENOTCONN, errno.ECONNABORTED}
