"""Real mounts for tests: runs the `thincow` command, and always takes down what it put up."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def run_thincow(
    *arguments: str | Path, timeout: float = TIMEOUT_S, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command and return what came of it."""
    return subprocess.run(
        thincow_command(*arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=thincow_environment(),
        check=False,
    )


def thincow_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "thincow", *map(str, arguments)]


def thincow_environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}


def _import_path() -> list[str]:
    inherited = os.environ.get("PYTHONPATH", "")
    return [part for part in (*inherited.split(os.pathsep), str(CHECKOUT)) if part]


def is_mounted(point: Path) -> bool:
    """Look at the mount table: never touches the mount."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(point) for line in lines)


def wait_for_end(pid: int, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ready, _, _ = select.select([process], [], [], timeout_s)
        assert ready, f"process {pid} did not end"
    finally:
        os.close(process)


class Mount:
    """A store with its upstream and mount point below one directory.

    `check_at_end`: whether the store must pass `thincow fsck` when the test ends.
    """

    def __init__(self, directory: Path, upstream: Path | None = None) -> None:
        self.directory = directory
        self.upstream = upstream or directory / "upstream"
        self.data = directory / "data"
        self.point = directory / "mnt"
        self.metadata: Path | str | None = None
        self.log = directory / "log"
        self.check_at_end = True
        self._pids: list[int] = []
        for path in (directory, self.upstream, self.point):
            path.mkdir(exist_ok=True, parents=True)

    @property
    def devs(self) -> Path:
        return self.point / "devs"

    @property
    def cowdata(self) -> Path:
        return self.data / "cowdata"

    @property
    def database(self) -> Path:
        assert self.metadata != "-"
        return Path(self.metadata or self.data) / "metadata.db"

    @property
    def pid(self) -> int:
        """The process that serves the mount now."""
        return int((self.point / "debug/pid.txt").read_text())

    def add(self, name: str, content: bytes) -> Path:
        """Make an upstream file."""
        path = self.upstream / name
        path.write_bytes(content)
        return path

    def arguments(self, *options: str | Path) -> list[str | Path]:
        metadata = () if self.metadata is None else ("--metadata-dir", self.metadata)
        return [
            "mount",
            "--upstream",
            self.upstream,
            "--data-dir",
            self.data,
            *metadata,
            "--log-file",
            self.log,
            *options,
            self.point,
        ]

    def try_start(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """Mount; the result may be a failure."""
        done = run_thincow(*self.arguments(*options))
        if done.returncode == 0 and "--no-mount" not in options:
            self._pids.append(self.pid)
        return done

    def start(self, *options: str | Path) -> Self:
        """Mount."""
        done = self.try_start(*options)
        assert done.returncode == 0, done.stderr
        return self

    def umount(self) -> None:
        """Unmount, as a user does."""
        done = run_thincow("umount", self.point)
        assert done.returncode == 0, done.stderr
        assert not is_mounted(self.point)

    def restart(self, *options: str | Path) -> None:
        self.umount()
        self.start(*options)

    def kill(self) -> None:
        """End the serving process without giving it a chance."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)

    def stats(self, name: str = "stats-full.txt") -> dict[str, str]:
        """Read a statistics file."""
        lines = (self.point / name).read_text().splitlines()
        return dict(line.split(": ", 1) for line in lines)

    def fsck(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        metadata = () if self.metadata is None else ("--metadata-dir", self.metadata)
        return run_thincow("fsck", "--data-dir", self.data, *metadata, *options)

    def close(self) -> None:
        """Take the mount down whatever state it is in, and check the store."""
        if is_mounted(self.point):
            run_thincow("umount", self.point)
        while is_mounted(self.point):
            subprocess.run(["fusermount3", "-u", "-z", str(self.point)], check=True)
        for pid in self._pids:
            _end(pid)
        if self.check_at_end and self.metadata != "-" and self.database.exists():
            done = self.fsck()
            assert done.returncode == 0, done.stdout + done.stderr

    def read_log(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _end(pid: int) -> None:
    """End a serving process that outlived its test."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return
        if b"thincow" not in command:
            return
        if deadline - time.monotonic() < 10:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    raise AssertionError(f"process {pid} cannot be ended")


def shell(*command: str | Path, check: bool = True) -> str:
    """Run a system tool and return its output."""
    arguments: Sequence[str] = [str(part) for part in command]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if check:
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout
