"""`sqlite3` shells that come and go on a live store, as its user may open them at any time."""

import multiprocessing
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

_BETWEEN_S: Final = 0.05
_LONG_HOLD_S: Final = 3.0
"""Longer than the store waits for somebody else's transaction."""
_QUERIES: Final = (
    "SELECT count(*) FROM extents;",
    "SELECT * FROM device_summary;",
    "SELECT * FROM space_use;",
    "SELECT count(*), sum(length * refs) FROM cow;",
)
_fork = multiprocessing.get_context("fork")


@dataclass
class ShellCounts:
    """How often the shells did what."""

    opened: int = 0
    read_holds: int = 0
    write_holds: int = 0
    long_holds: int = 0
    killed: int = 0
    complaints: str = ""


class RestlessShells:
    """A process that runs one shell after the other on a database.

    Args:
        database: the metadata of a live store.
        seed: decides what the shells do.
        holds_long: whether a shell may hold a write transaction longer than the store waits.
    """

    def __init__(self, database: Path, seed: int, *, holds_long: bool = False) -> None:
        self._ended = _fork.Event()
        self._pipe, child_end = _fork.Pipe()
        user = _User(database, seed, holds_long=holds_long)
        self._process = _fork.Process(target=self._run, args=(user, child_end), daemon=True)
        self._process.start()
        child_end.close()

    def end(self) -> ShellCounts:
        """Let the last shell leave and return what all did."""
        self._ended.set()
        counts: ShellCounts = self._pipe.recv()
        self._process.join()
        return counts

    def _run(self, user: "_User", pipe: Connection) -> None:
        while not self._ended.is_set():
            user.open_a_shell()
        pipe.send(user.counts)


class _User:
    def __init__(self, database: Path, seed: int, *, holds_long: bool) -> None:
        self.counts = ShellCounts()
        self._database = database
        self._random = random.Random(seed)
        self._acts: dict[Callable[[], None], float] = {
            self._look: 5,
            self._hold_a_read: 3,
            self._hold_a_write: 2,
            self._look_and_die: 2,
            self._hold_long: 2 if holds_long else 0,
        }

    def open_a_shell(self) -> None:
        """Run one shell from its start to its end."""
        self.counts.opened += 1
        self._random.choices(list(self._acts), list(self._acts.values()))[0]()
        time.sleep(self._random.uniform(0, _BETWEEN_S))

    def _look(self) -> None:
        self._run(self._random.choice(_QUERIES))

    def _hold_a_read(self) -> None:
        self.counts.read_holds += 1
        self._run(f"BEGIN; {_QUERIES[0]}", self._random.uniform(0, 3), "COMMIT;")

    def _hold_a_write(self) -> None:
        self.counts.write_holds += 1
        self._run("BEGIN IMMEDIATE;", self._random.uniform(0, 1), "ROLLBACK;")

    def _hold_long(self) -> None:
        self.counts.long_holds += 1
        self._run("BEGIN IMMEDIATE;", _LONG_HOLD_S, "ROLLBACK;")

    def _look_and_die(self) -> None:
        self.counts.killed += 1
        self._run(f"BEGIN; {_QUERIES[0]}", self._random.uniform(0, 0.5), None)

    def _run(self, first: str, hold_s: float = 0.0, then: str | None = "") -> None:
        """Run statements, wait, and run others; None kills the shell instead."""
        with subprocess.Popen(
            ["sqlite3", "-batch", "-cmd", ".timeout 1000", str(self._database)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as shell:
            assert shell.stdin is not None
            shell.stdin.write(first + "\n")
            shell.stdin.flush()
            time.sleep(hold_s)
            if then is None:
                shell.kill()
            output, _ = shell.communicate(then)
        # A shell that finds another one writing may say so; nothing else may go wrong.
        if "rror" in output and "locked" not in output:
            self.counts.complaints += output
