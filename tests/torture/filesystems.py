"""Filesystems on a loop device over a device file: worked hard, cut off, and checked by their own.

The serving process is killed while `stress-ng` works and a client writes and syncs files. Then
the store is mounted again, the filesystem recovers from its journal, every synced file must be
complete, and the filesystem's own checker must find nothing.
"""

import errno
import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from tests.support.block_history import stamped
from tests.support.loop_devices import loop_device, mounted
from tests.support.mounting import Mount, shell

_SIZE: Final = 384 << 20
_GONE: Final = {
    errno.EIO,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTCONN,
    errno.ESHUTDOWN,
    errno.EUCLEAN,
}
_WAIT_S: Final = 120
_STRESSORS: Final = (
    *("--hdd", "1", "--hdd-bytes", "16m"),
    *("--iomix", "1", "--iomix-bytes", "8m"),
    *("--dentry", "1", "--dentries", "256"),
)
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, slots=True)
class Kind:
    """A filesystem: how it is made, and how its own checker is asked to change nothing."""

    name: str
    make: tuple[str, ...]
    check: tuple[str, ...]


KINDS: Final = (
    Kind("ext4", ("mkfs.ext4", "-q"), ("e2fsck", "-fn")),
    Kind("xfs", ("mkfs.xfs", "-q"), ("xfs_repair", "-n")),
    Kind("btrfs", ("mkfs.btrfs", "-q"), ("btrfs", "check", "--readonly")),
)


@dataclass
class Totals:
    """What the rounds came to."""

    rounds: int = 0
    files: int = 0
    seconds: float = 0.0


def run(mount: Mount, kind: Kind, seed: int, rounds: int, work_s: float) -> Totals:
    """Work a filesystem to the end once, then cut it off in each round.

    Args:
        mount: not mounted, without upstream.
        kind: what to put on the device.
        seed: decides how long is worked before each cut.
        rounds: how often it is cut off.
        work_s: how long `stress-ng` works.

    Raises:
        AssertionError: when a synced file or the filesystem was damaged.
    """
    random_source = random.Random(seed)
    begun = time.monotonic()
    mount.add("disk", b"")
    os.truncate(mount.upstream / "disk", _SIZE)
    torture = _Torture(mount, kind)
    torture.make_and_work(work_s)
    for _ in range(rounds):
        torture.work_and_cut(random_source.uniform(0.5, 1) * work_s)
    torture.totals.seconds = time.monotonic() - begun
    return torture.totals


class _Torture:
    def __init__(self, mount: Mount, kind: Kind) -> None:
        self.totals = Totals()
        self._mount = mount
        self._kind = kind
        self._point = mount.directory / "filesystem"

    @property
    def _disk(self) -> Path:
        return self._mount.devs / "disk"

    def make_and_work(self, seconds: float) -> None:
        """Make the filesystem and let the stress test verify what it reads."""
        self._mount.start()
        with loop_device(self._disk) as device:
            shell(*self._kind.make, device)
            with mounted(device, self._point):
                with _stress(self._point, seconds) as process:
                    output, _ = process.communicate(timeout=_WAIT_S)
                assert process.returncode == 0, output
            shell(*self._kind.check, device)
        self._mount.umount()

    def work_and_cut(self, seconds: float) -> None:
        """Kill the serving process under a filesystem at work, recover, and check all."""
        self._mount.start()
        with loop_device(self._disk) as device:
            shell("mount", device, self._point)
            try:
                writer = _SyncingWriter(self._point / f"files{self.totals.rounds}")
                with _stress(self._point, _WAIT_S) as process:
                    time.sleep(seconds)
                    self._mount.kill()
                    files = writer.written()
                    process.terminate()
                    process.communicate(timeout=_WAIT_S)
            finally:
                shell("umount", self._point, check=False)
        assert not os.path.ismount(self._point)
        done = self._mount.fsck()
        assert done.returncode == 0, done.stdout + done.stderr
        self._recover(files)
        self.totals.rounds += 1
        self.totals.files += files

    def _recover(self, files: int) -> None:
        assert files > 0, "no file was synced"
        self._mount.start()
        with loop_device(self._disk) as device:
            with mounted(device, self._point):
                directory = self._point / f"files{self.totals.rounds}"
                for number in range(files):
                    content = (directory / str(number)).read_bytes()
                    assert content == _content(number), f"file {number} is not what was synced"
                shell("rm", "-r", *self._point.glob("files*"), *self._point.glob("tmp-*"))
            shell(*self._kind.check, device)
        self._mount.umount()


@contextmanager
def _stress(point: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run stress-ng on a filesystem."""
    command = ["stress-ng", *_STRESSORS, "--verify", "--timeout", f"{max(1, round(seconds))}s"]
    with subprocess.Popen(
        [*command, "--temp-path", str(point)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class _SyncingWriter:
    """A process that writes and syncs one file after the other until the filesystem is gone."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self._pipe, child_end = _fork.Pipe()
        self._process = _fork.Process(target=self._run, args=(directory, child_end), daemon=True)
        self._process.start()
        child_end.close()

    def written(self) -> int:
        """Wait for the end and return how many files were written and synced."""
        assert self._pipe.poll(_WAIT_S), "the client does not notice that its disk is gone"
        count: int = self._pipe.recv()
        self._process.join()
        return count

    def _run(self, directory: Path, pipe: Connection) -> None:
        count = 0
        try:
            while True:
                _write_synced(directory, count)
                count += 1
        except OSError as error:
            if error.errno not in _GONE:
                raise
        pipe.send(count)


def _write_synced(directory: Path, number: int) -> None:
    with (directory / str(number)).open("wb") as file:
        file.write(_content(number))
        file.flush()
        os.fsync(file.fileno())
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _content(number: int) -> bytes:
    return stamped(0, number, 0, 1000 + number * 7919 % 50_000)
