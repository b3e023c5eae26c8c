"""Kills a mount at random instants of a flush, again and again, and looks for what was lost.

Each round changes the devices in one of several ways, begins a full flush, through the mount or
without one, kills the process, compares what the store shows, now and then cuts the flush that goes
on too, and then flushes to the end: upstream must equal what the devices showed before.
"""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.flushing import command, offline_arguments, shown, state, upstream, write
from tests.support.mounting import Mount, thincow_command, thincow_environment, wait_for_end

_ROUNDS_A_STORE: Final = 5
_BLOCK_SIZES: Final = (4096, 512, 65536)
_OPTIONS: Final = ((), ("--checksum-bits", "32"), ("--hash-table-size", "4K"))
_SIZES: Final = {"a": 8 << 20, "b": 8 << 20, "odd": 1_300_001}
_SLOWEST_S: Final = 10.0
_LOG: Final = "metadata.db-wal"


@dataclass
class FlushTotals:
    """What the rounds came to. `cut`: kills that left marks of a flush under way."""

    rounds: int = 0
    kills: int = 0
    cut: int = 0
    unfinished: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds, {self.kills} kills: {self.unfinished} left something to flush, "
            f"{self.cut} of them amid a batch; {self.seconds:.0f} s"
        )


class FlushKillRounds:
    """Rounds over a series of stores of different kinds.

    Args:
        directory: where the stores are made; one that fails is left there.
        seed: decides everything but the instants, which depend on the machine.
        make_mount: makes the mounts.
    """

    def __init__(
        self, directory: Path, seed: int, make_mount: Callable[[Path], Mount] = Mount
    ) -> None:
        self.totals = FlushTotals()
        self._directory = directory
        self._random = random.Random(seed)
        self._make_mount = make_mount

    def run(self, rounds: int) -> None:
        """Do a number of rounds.

        Raises:
            AssertionError: when something was lost, or a store is damaged.
        """
        begun = time.monotonic()
        stores = 0
        while self.totals.rounds < rounds:
            mount = self._make_mount(self._directory / f"flushed{stores}")
            store = _Store(mount, stores, self._random, self.totals)
            stores += 1
            with store.mounted():
                for _ in range(min(_ROUNDS_A_STORE, rounds - self.totals.rounds)):
                    store.round()
                    self.totals.rounds += 1
        self.totals.seconds = time.monotonic() - begun


class _Store:
    def __init__(
        self, mount: Mount, number: int, random_source: random.Random, totals: FlushTotals
    ) -> None:
        self._mount = mount
        self._random = random_source
        self._totals = totals
        self._block_size = _BLOCK_SIZES[number % len(_BLOCK_SIZES)]
        self._options = _OPTIONS[number % len(_OPTIONS)]
        self._flush_took_s = 0.3
        for name, size in _SIZES.items():
            mount.add(name, self._random.randbytes(size))

    @contextmanager
    def mounted(self) -> Iterator[None]:
        self._mount.start("--block-size", str(self._block_size), *self._options)
        try:
            yield
        finally:
            self._mount.close()

    def round(self) -> None:
        """Change the devices, flush, kill, compare, and flush to the end."""
        expected = self._change()
        cuts = self._random.choice((1, 1, 1, 2, 3))
        for _ in range(cuts):
            self._random.choice((self._cut_flush, self._cut_offline_flush))()
            self._totals.kills += 1
            self._count_what_is_left()
            if self._random.random() < 0.5:
                self._check()
            self._mount.start(*self._options)
            assert shown(self._mount) == expected, f"{self._name()}: contents are lost"
        begun = time.monotonic()
        assert command(self._mount, "full\n") == 0
        self._flush_took_s = min(_SLOWEST_S, max(0.05, time.monotonic() - begun))
        assert state(self._mount) == "clean"
        assert upstream(self._mount) == expected, f"{self._name()}: upstream is wrong"
        assert shown(self._mount) == expected, f"{self._name()}: contents are lost at the end"

    def _change(self) -> dict[str, bytes]:
        """Change the devices; return what they show, durably."""
        mount, size = self._mount, self._block_size
        before = shown(mount)
        a, b = before["a"], before["b"]
        new = self._random.randbytes
        changed = self._random.choice(
            (
                {"a": b, "b": a},
                {"a": new(size) + a[:-size], "b": b[size:] + new(size)},
                {"a": new(len(a)), "odd": new(len(before["odd"]))},
                {"a": self._mixed(a + b), "b": self._mixed(a + b)},
                {"a": b[: len(b) // 2] + bytes(len(b) // 2), "b": self._mixed(a)},
            )
        )
        for name, content in changed.items():
            write(mount, name, content)
        subprocess.run(["sync", *(mount.devs / name for name in changed)], check=True)
        expected = before | changed
        assert shown(mount) == expected
        return expected

    def _mixed(self, content: bytes) -> bytes:
        """Return runs of blocks of a content in another order, as long as a device."""
        size, mixed = self._block_size, bytearray()
        blocks = len(content) // size
        while len(mixed) < _SIZES["a"]:
            first = self._random.randrange(blocks) * size
            mixed += content[first : first + self._random.randint(1, 64) * size]
        return bytes(mixed[: _SIZES["a"]])

    def _cut_flush(self) -> None:
        pid = self._mount.pid
        with subprocess.Popen(
            ["tee", self._mount.point / "flush"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as client:
            assert client.stdin is not None
            client.stdin.write(b"full\n")
            client.stdin.close()
            time.sleep(self._random.uniform(0, self._flush_took_s))
            os.kill(pid, signal.SIGKILL)
            wait_for_end(pid)

    def _cut_offline_flush(self) -> None:
        self._mount.umount()
        flush = thincow_command("flush", *offline_arguments(self._mount))
        with subprocess.Popen(
            flush, env=thincow_environment(), stdout=subprocess.DEVNULL
        ) as process:
            # It has begun when it has made the log.
            while process.poll() is None and not self._mount.database.with_name(_LOG).exists():
                time.sleep(0.001)
            time.sleep(self._random.uniform(0, self._flush_took_s))
            process.kill()

    def _count_what_is_left(self) -> None:
        # In a copy: to look must not change what was left.
        copy = self._mount.directory / "look"
        copy.mkdir(exist_ok=True)
        for path in self._mount.data.glob("metadata.db*"):
            shutil.copy(path, copy)
        with closing(sqlite3.connect(copy / "metadata.db")) as database:
            (marks,) = database.execute("SELECT count(*) FROM flushing").fetchone()
            (extents,) = database.execute("SELECT count(*) FROM extents").fetchone()
        shutil.rmtree(copy)
        self._totals.cut += marks > 0
        self._totals.unfinished += extents > 0

    def _check(self) -> None:
        done = self._mount.fsck("--upstream", str(self._mount.upstream))
        assert done.returncode == 0, f"{self._name()}: {done.stdout}{done.stderr}"

    def _name(self) -> str:
        return f"{self._mount.directory} (block size {self._block_size}, {self._options})"
