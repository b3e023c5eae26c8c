"""Backups of a mount whose client writes, overwrites and flushes, again and again.

The client's writes are numbered, and what each of them writes follows from its number. So a copy
shows one moment if there is a number after which the devices hold exactly what it shows, but for a
part of the next write (see `torn_writes`). Copies are looked at while their view is held, since a
later flush may change what they show.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.block_history import stamped
from tests.support.mounting import Mount, run_thincow, thincow_command, thincow_environment
from tests.support.torn_writes import is_torn_write
from thincow.engine.backup import back_up
from thincow.mount.live_view import open_live_view

_BLOCK: Final = 4096
_SIZES: Final = {"large": 3 << 20, "small": 700_001}
_ORIGINAL: Final = 9


@dataclass
class Totals:
    """What the rounds came to."""

    rounds: int = 0
    writes: int = 0
    kills: int = 0
    refused: int = 0
    checks: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.rounds} backups of {self.writes} writes, {self.kills} kills, "
            f"{self.refused} copies refused, {self.checks} online checks, {self.seconds:.0f} s"
        )


def original() -> dict[str, bytes]:
    """Return what the devices hold at first."""
    return {name: stamped(_ORIGINAL, 0, len(name) << 32, size) for name, size in _SIZES.items()}


def write_of(seed: int, number: int) -> tuple[str, int, bytes]:
    """Return device, offset and content of a write: new, zeroes, or what is upstream somewhere."""
    chance = random.Random(f"{seed} {number}")
    name = chance.choice(("large", "large", "small"))
    blocks = _SIZES[name] // _BLOCK
    first = chance.randrange(blocks)
    length = min(chance.choice((1, 1, 2, 8, 32)), blocks - first) * _BLOCK
    kind = chance.random()
    if kind < 0.15:
        return name, first * _BLOCK, bytes(length)
    if kind < 0.35:
        place = chance.randrange(_SIZES["large"] // _BLOCK - length // _BLOCK) * _BLOCK
        return name, first * _BLOCK, stamped(_ORIGINAL, 0, (5 << 32) + place, length)
    return name, first * _BLOCK, stamped(1, number, first * _BLOCK, length)


def describe_write(seed: int, number: int) -> str:
    """Return where a write goes, for messages."""
    name, offset, data = write_of(seed, number)
    return f"{len(data)} bytes at {offset} of {name}"


def client(devices: Path, seed: int) -> None:
    """Write for ever, one write after the other, and sync now and then."""
    fds = {name: os.open(devices / name, os.O_RDWR) for name in _SIZES}
    number = 0
    while True:
        name, offset, data = write_of(seed, number)
        assert os.pwrite(fds[name], data, offset) == len(data)
        if number % 50 == 0:
            os.fsync(fds[name])
        number += 1


def flusher(flush: Path, seed: int) -> None:
    """Flush for ever; a flush that fails is one that was cut off."""
    chance = random.Random(seed)
    while True:
        with flush.open("w") as file:
            file.write(chance.choice(("full\n", "max\n", "100\n")))
        time.sleep(chance.uniform(0, 0.2))


@dataclass(frozen=True, slots=True)
class Moment:
    """The number of writes after which devices are most like what is shown, and what is not."""

    writes: int
    wrong: frozenset[tuple[str, int]]


def moment_of(seed: int, shown: dict[str, bytes], most: int) -> Moment:
    """Find the number of writes after which the devices hold what is shown, or nearly."""
    now = {name: bytearray(content) for name, content in original().items()}
    wrong = {
        (name, at)
        for name, content in now.items()
        for at in range(0, len(content), _BLOCK)
        if content[at : at + _BLOCK] != shown[name][at : at + _BLOCK]
    }
    best = Moment(0, frozenset(wrong))
    for number in range(most):
        if len(wrong) < len(best.wrong):
            best = Moment(number, frozenset(wrong))
        if not wrong:
            break
        name, offset, data = write_of(seed, number)
        end = offset + len(data)
        if all(device == name and offset <= at < end for device, at in wrong):
            before, found = bytes(now[name][offset:end]), shown[name][offset:end]
            if is_torn_write(before, 0, data, found):
                return Moment(number, frozenset())
        now[name][offset : offset + len(data)] = data
        for at in range(offset, offset + len(data), _BLOCK):
            if now[name][at : at + _BLOCK] == shown[name][at : at + _BLOCK]:
                wrong.discard((name, at))
            else:
                wrong.add((name, at))
    return best


class BackupRounds:
    """Rounds over one store: backups, whole and cut off, and online checks."""

    def __init__(self, mount: Mount, seed: int) -> None:
        self.totals = Totals()
        self._mount = mount
        self.seed = seed
        self._random = random.Random(seed)
        self._copies = mount.directory / "copies"
        self._copies.mkdir()
        for name, content in original().items():
            mount.add(name, content)

    def run(self, rounds: int) -> None:
        """Do a number of rounds.

        Raises:
            AssertionError: when a copy is wrong or the store is damaged.
        """
        begun = time.monotonic()
        self._mount.start("--log-file", self._mount.log)
        with self._clients():
            for number in range(rounds):
                time.sleep(self._random.uniform(0, 0.5))
                self._back_up(number)
                self._check()
                if number % 2:
                    self._kill_backup(number)
                self.totals.rounds += 1
        self._assert_nothing_is_held()
        self.totals.seconds = time.monotonic() - begun

    def kill_the_mount(self, rounds: int) -> None:
        """Kill the serving process during backups: copies that are not whole are refused."""
        for number in range(rounds):
            self._mount.start()
            target = self._copies / f"orphan{number}"
            with self._backup_process(target) as process:
                self._wait_for_the_middle(process, target)
                self._mount.kill()
                assert process.wait(60) in (0, 1)
            self.totals.kills += 1
            self._assert_whole_or_refused(target)
            assert self._mount.fsck("--deep").returncode == 0

    def _back_up(self, number: int) -> None:
        target = self._copies / ("copy" if number % 3 else f"copy{number}")
        with open_live_view(self._mount.point, "backup", private=False) as view:
            back_up(view, target, incremental=target.exists())
            shown = self._shown_by(target, number)
            view.require_valid()
        moment = moment_of(self.seed, shown, 1 << 20)
        assert not moment.wrong, (
            f"seed {self.seed}, backup {number}: of no single moment; all but "
            f"{sorted(moment.wrong)} is as after {moment.writes} writes, the next of which is "
            f"{describe_write(self.seed, moment.writes)}"
        )
        self.totals.writes = max(self.totals.writes, moment.writes)

    def _shown_by(self, target: Path, number: int) -> dict[str, bytes]:
        options = ("--deep", "--upstream", self._mount.upstream)
        done = run_thincow("fsck", "--data-dir", target, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        copy = Mount(self._mount.directory / f"mounted{number}", self._mount.upstream)
        copy.data = target
        # Mounted for writing it would count on, and then no older copy would be written over it.
        copy.start("-R")
        try:
            return {name: (copy.devs / name).read_bytes() for name in _SIZES}
        finally:
            copy.close()

    def _check(self) -> None:
        done = run_thincow("fsck", "--online", self._mount.point, "--deep", "--rate", "1G")
        assert done.returncode == 0, done.stdout + done.stderr
        self.totals.checks += 1

    def _kill_backup(self, number: int) -> None:
        target = self._copies / f"cut{number}"
        with self._backup_process(target) as process:
            self._wait_for_the_middle(process, target)
            process.kill()
        self.totals.kills += 1
        self._assert_whole_or_refused(target)

    def _wait_for_the_middle(self, process: subprocess.Popen[bytes], target: Path) -> None:
        while process.poll() is None and not (target / "backup-incomplete").exists():
            time.sleep(0.001)
        time.sleep(self._random.uniform(0, 0.01))

    def _assert_whole_or_refused(self, target: Path) -> None:
        if (target / "backup-incomplete").exists():
            self.totals.refused += 1
            assert run_thincow("fsck", "--data-dir", target).returncode == 3
            options = ("--data-dir", target, "--upstream", self._mount.upstream, "--no-mount")
            assert run_thincow("mount", *options).returncode == 1
        elif (target / "backup-complete").exists():
            assert run_thincow("fsck", "--data-dir", target).returncode == 0

    def _assert_nothing_is_held(self) -> None:
        stats = self._mount.stats("stats.txt")
        for key in ("COW store held blocks", "Running backups", "Running checks"):
            assert stats[key] == "0"

    @contextmanager
    def _clients(self) -> Iterator[None]:
        """Let a client write and another one flush."""
        calls = (
            f"client(Path({str(self._mount.devs)!r}), {self.seed})",
            f"flusher(Path({str(self._mount.point / 'flush')!r}), {self.seed})",
        )
        head = "from pathlib import Path; from tests.torture.backups import client, flusher; "
        processes = [
            subprocess.Popen([sys.executable, "-c", head + call], env=thincow_environment())
            for call in calls
        ]
        try:
            yield
            assert [process.poll() for process in processes] == [None, None]
        finally:
            for process in processes:
                process.send_signal(signal.SIGKILL)
                process.wait()

    @contextmanager
    def _backup_process(self, target: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = thincow_command("backup", self._mount.point, target)
        with subprocess.Popen(
            command,
            env=thincow_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            yield process
