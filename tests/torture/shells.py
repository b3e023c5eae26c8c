"""`sqlite3` shells come and go on the store of a mount at work; no commit may be lost by it.

A shell that leaves last deletes the write-ahead log. Were the mount's own lock on it ever dropped,
commits would go on into a file without a name, and be lost. So this looks whether the log is
still in its place, and now and then cuts everything off and compares a copy of the store with what
was synced.
"""

import contextlib
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.block_history import find_violations, stamped
from tests.support.disk_clients import ClientPlan, start_clients
from tests.support.mounting import Mount
from tests.support.restless_shells import RestlessShells, ShellCounts

_BLOCK: Final = 512
_SIZE: Final = 4 << 20
_SHELLS: Final = 3
_CYCLE_S: Final = 12.0
_LOOK_EVERY_S: Final = 0.05
_LONGEST_WAIT_S: Final = 4.0
"""A sync may wait for a commit that is under way and for its own, each up to the busy timeout."""
_SLACK_S: Final = 1.5
"""What a busy machine may add to a call that waited as long as it may."""


@dataclass
class Totals:
    """What the cycles came to."""

    cycles: int = 0
    writes: int = 0
    syncs: int = 0
    refused: int = 0
    longest_call_s: float = 0.0
    seconds: float = 0.0
    shells: ShellCounts = field(default_factory=ShellCounts)

    def __str__(self) -> str:
        return (
            f"{self.cycles} cycles, {self.writes} writes, {self.syncs} syncs, "
            f"{self.shells.opened} shells ({self.shells.read_holds} held a read transaction, "
            f"{self.shells.write_holds} a write transaction, {self.shells.long_holds} for long, "
            f"{self.shells.killed} were killed), {self.refused} calls refused, "
            f"the longest took {self.longest_call_s:.1f} s, {self.seconds:.0f} s"
        )


def run(directory: Path, seed: int, seconds: float) -> Totals:
    """Let shells and a client work for some time.

    Raises:
        AssertionError: when a commit was lost, a call stalled or the log was unlinked.
    """
    torture = _Torture(directory, seed)
    begun = time.monotonic()
    try:
        while time.monotonic() - begun < seconds:
            left_s = seconds - (time.monotonic() - begun)
            torture.cycle(min(_CYCLE_S, left_s))
    finally:
        torture.mount.close()
    torture.totals.seconds = time.monotonic() - begun
    return torture.totals


class _Torture:
    def __init__(self, directory: Path, seed: int) -> None:
        self.totals = Totals()
        self.mount = Mount(directory / "store")
        self._directory = directory
        self._random = random.Random(seed)
        self._original = {"disk": stamped(99, 0, 0, _SIZE)}
        self._base = dict(self._original)
        self.mount.add("disk", self._original["disk"])

    def cycle(self, seconds: float) -> None:
        """Work for a while, cut everything off, and compare a copy of the store."""
        totals = self.totals
        totals.cycles += 1
        self.mount.start("--block-size", str(_BLOCK))
        pid = self.mount.pid
        holds_long = totals.cycles % 3 == 0
        kills_first = totals.cycles % 2 == 0
        clients = start_clients([self._plan()], self._base, _BLOCK)
        with self._shells(holds_long=holds_long):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                _assert_log_in_place(self.mount, pid)
                time.sleep(_LOOK_EVERY_S)
            # A shell that outlives the mount merges the log, else the next mount does.
            if kills_first:
                self.mount.kill()
        if not kills_first:
            self.mount.kill()
        reports = clients.reports()
        (report,) = reports
        assert report.syncs > 0
        totals.writes += report.writes
        totals.syncs += report.syncs
        totals.refused += report.refused
        totals.longest_call_s = max(totals.longest_call_s, report.longest_call_s)
        assert report.longest_call_s < _LONGEST_WAIT_S + _SLACK_S
        history, synced_ns = clients.merge(reports)
        found = self._read_copy()
        wrong = find_violations(history, found, synced_ns)
        assert not wrong, f"{len(wrong)} blocks are wrong:\n" + "\n".join(wrong[:9])
        self._base = found

    @contextlib.contextmanager
    def _shells(self, *, holds_long: bool) -> Iterator[None]:
        """Run shells; at the end they leave one by one, the last one as the only user."""
        users = [
            RestlessShells(
                self.mount.database,
                self._random.getrandbits(32),
                holds_long=holds_long and number == 0,
            )
            for number in range(_SHELLS)
        ]
        try:
            yield
        finally:
            counts = [user.end() for user in users]
        shells = self.totals.shells
        for count in counts:
            assert not count.complaints, count.complaints
            shells.opened += count.opened
            shells.read_holds += count.read_holds
            shells.write_holds += count.write_holds
            shells.long_holds += count.long_holds
            shells.killed += count.killed

    def _plan(self) -> ClientPlan:
        return ClientPlan(
            self.mount.devs,
            0,
            self._random.getrandbits(32),
            self._original,
            syncs=True,
            pause_s=0.004,
            retries_when_full=True,
        )

    def _read_copy(self) -> dict[str, bytes]:
        """Mount a copy of the store as it was left, read it, and check it."""
        place = self._directory / "copy"
        copy = Mount(place, self.mount.upstream)
        shutil.copytree(self.mount.data, copy.data)
        try:
            found = (copy.start().devs / "disk").read_bytes()
        finally:
            copy.close()
        shutil.rmtree(place)
        return {"disk": found}


def _assert_log_in_place(mount: Mount, pid: int) -> None:
    """The files that the process has open must be those that have the names."""
    for name in ("metadata.db", "metadata.db-wal"):
        path = mount.database.with_name(name)
        assert path.exists(), f"{name} was unlinked under the mount"
        number = path.stat().st_ino
        opened = _files_opened_as(name, pid)
        assert opened == {number}, f"the mount has another {name} open than the one in its place"


def _files_opened_as(name: str, pid: int) -> set[int]:
    """The inode numbers of the files that a running process has opened by this name."""
    numbers = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed while they are listed
            if entry.readlink().name.split(" ")[0] == name:
                numbers.add(entry.stat().st_ino)
    return numbers
