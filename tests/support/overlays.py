"""Real overlays for tests: as `Mount`, of one file."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support.mounting import is_mounted, run_thincow, wait_for_end


class Overlay:
    """An original and the file that shows it, below one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.original = directory / "original"
        self.virtual = directory / "virtual"
        self.data = directory / "virtual.thincow"
        self.log = directory / "log"
        directory.mkdir(exist_ok=True, parents=True)

    @property
    def pid(self) -> int:
        """The process that serves the overlay now."""
        return int(os.getxattr(self.virtual, "user.thincow.pid.txt"))

    @property
    def state(self) -> str:
        """What a flush of it would find."""
        return os.getxattr(self.virtual, "user.thincow.flush").decode()

    @property
    def stats(self) -> dict[str, str]:
        text = os.getxattr(self.virtual, "user.thincow.stats-full.txt").decode()
        return dict(line.split(": ", 1) for line in text.splitlines())

    def try_start(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """Begin or go on; the result may be a failure."""
        return run_thincow("overlay", "--log-file", self.log, *options, self.original, self.virtual)

    def start(self, *options: str | Path) -> Self:
        """Begin or go on."""
        done = self.try_start(*options)
        assert done.returncode == 0, done.stderr
        return self

    def umount(self, *options: str) -> None:
        done = run_thincow("umount", *options, self.virtual)
        assert done.returncode == 0, done.stderr
        assert not is_mounted(self.virtual)

    def restart(self, *options: str | Path) -> None:
        self.umount()
        self.start(*options)

    def kill(self) -> None:
        """End the serving process without giving it a chance."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for_end(pid)

    def commit(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """Make the changes real; the result may be a failure."""
        return run_thincow("commit", *options, self.virtual)

    def check(self) -> None:
        """Check the store, which nobody uses."""
        done = run_thincow("fsck", "--deep", "--data-dir", self.data, "--upstream", self.original)
        assert done.returncode == 0, done.stdout + done.stderr

    def close(self) -> None:
        """Take it down whatever state it is in, and check the store."""
        if is_mounted(self.virtual):
            run_thincow("umount", self.virtual)
        while is_mounted(self.virtual):
            subprocess.run(["umount", "-l", self.virtual], check=True)
        if (self.data / "metadata.db").exists():
            done = run_thincow("fsck", "--data-dir", self.data)
            assert done.returncode == 0, done.stdout + done.stderr
