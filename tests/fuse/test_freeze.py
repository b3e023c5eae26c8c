"""Freezing a mount: what is copied meanwhile is a backup."""

import multiprocessing
import os
import pty
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.faulty_disk import faulty_disk
from tests.support.flushing import count_marks, wait_for_batch
from tests.support.mounting import Mount, run_thincow, thincow_command, thincow_environment

BLOCK = 4096
PATIENCE_S = 60.0
_fork = multiprocessing.get_context("fork")


@pytest.fixture
def pid_file(mount: Mount) -> Path:
    return mount.directory / "pid"


def thincow(command: str, pid_file: Path, *options: str) -> str:
    """Run freeze or thaw; return what it complained of, nothing for success."""
    done = run_thincow(command, "--pid-file", pid_file, *options)
    assert (done.returncode, bool(done.stderr)) in {(0, False), (1, True)}, done
    assert done.stdout == ""
    return done.stderr


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid: int, *, stopped: bool) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (state(pid) == "T") != stopped:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def frozen(pid_file: Path) -> Iterator[None]:
    assert thincow("freeze", pid_file) == ""
    try:
        yield
    finally:
        assert thincow("thaw", pid_file) == ""


def copy_store(mount: Mount, copy: Mount) -> None:
    """Copy data and metadata directory by another process, as a user would."""
    subprocess.run(["cp", "-a", "--sparse=always", mount.data, copy.data], check=True)
    if mount.metadata is not None:
        copy.metadata = copy.directory / "metadata"
        subprocess.run(["cp", "-a", mount.metadata, copy.metadata], check=True)


def read_devices(mount: Mount) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(mount.devs.iterdir())}


class Client:
    """Writes numbered blocks to the mount until the block ends.

    In a process of its own: a process with a file open on a frozen mount can start no other one.
    """

    def __init__(self, mount: Mount, name: str, blocks: int) -> None:
        self._acknowledged = _fork.Value("q", 0)
        self._process = _fork.Process(
            target=_write_numbers, args=(mount.devs / name, blocks, self._acknowledged)
        )

    @property
    def acknowledged(self) -> int:
        """How many blocks were written; number n is in block n modulo the number of blocks."""
        return self._acknowledged.value

    def __enter__(self) -> "Client":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()

    def wait_for(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.acknowledged < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _write_numbers(path: Path, blocks: int, acknowledged: "Synchronized[int]") -> None:
    fd = os.open(path, os.O_WRONLY)
    number = 0
    while True:
        number += 1
        os.pwrite(fd, b"%015d\n" % number * (BLOCK // 16), number % blocks * BLOCK)
        acknowledged.value = number


def newest_number(content: bytes) -> int:
    """Return the greatest number; all up to it must be there, as far as not overwritten."""
    found = [int(content[at : at + 16]) for at in range(0, len(content), BLOCK)]
    for at, number in enumerate(found):
        assert content[at * BLOCK : (at + 1) * BLOCK] == b"%015d\n" % number * (BLOCK // 16)
    newest = max(found)
    assert sorted(found) == list(range(newest - len(found) + 1, newest + 1))
    return newest


@pytest.mark.parametrize("apart", [False, True], ids=["together", "apart"])
def test_copy_of_a_frozen_store_holds_everything_written_before(
    mount: Mount, pid_file: Path, new_mount: NewMount, apart: bool
) -> None:
    if apart:
        mount.metadata = mount.directory / "metadata"
    mount.add("numbers", b"%015d\n" % 0 * (256 * BLOCK // 16))
    mount.add("other", os.urandom(64 * BLOCK))
    mount.start("--pid-file", pid_file)
    copies = []
    with Client(mount, "numbers", 256) as client:
        for index in range(2):
            client.wait_for(client.acknowledged + 512)
            with frozen(pid_file):
                assert state(mount_pid(pid_file)) == "T"
                # At most one write is under way that was done and not yet answered.
                at_least = client.acknowledged
                copy = new_mount(f"copy{index}", mount.upstream)
                copy_store(mount, copy)
                log = copy.database.with_name("metadata.db-wal")
                assert not log.exists() or log.stat().st_size == 0
                assert client.acknowledged == at_least
            copies.append((copy, at_least))
        client.wait_for(client.acknowledged + 512)
    for copy, at_least in copies:
        assert copy.fsck("--deep", "--upstream", copy.upstream).returncode == 0
        copy.start()
        assert "WARNING" not in copy.read_log()
        assert at_least <= newest_number((copy.devs / "numbers").read_bytes()) <= at_least + 1
        copy.umount()


def mount_pid(pid_file: Path) -> int:
    return int(pid_file.read_text())


def test_frozen_mount_goes_on_when_it_is_thawed(mount: Mount, pid_file: Path) -> None:
    mount.add("disk", os.urandom(16 * BLOCK))
    mount.start("--pid-file", pid_file)
    assert thincow("freeze", pid_file) == ""
    with subprocess.Popen(["cat", mount.devs / "disk"], stdout=subprocess.PIPE) as reader:
        with pytest.raises(subprocess.TimeoutExpired):
            reader.wait(0.2)
        assert thincow("thaw", pid_file) == ""
        shown, _ = reader.communicate()
    assert shown == (mount.upstream / "disk").read_bytes()
    assert "frozen until SIGCONT" in mount.read_log()
    assert "no longer frozen" in mount.read_log()


def test_thaw_of_a_mount_that_runs_changes_nothing(mount: Mount, pid_file: Path) -> None:
    mount.add("disk", bytes(BLOCK))
    mount.start("--pid-file", pid_file)
    assert thincow("thaw", pid_file) == ""
    assert (mount.devs / "disk").read_bytes() == bytes(BLOCK)


def test_freeze_of_a_stopped_mount_is_refused(mount: Mount, pid_file: Path) -> None:
    mount.add("disk", bytes(BLOCK))
    mount.start("--pid-file", pid_file)
    pid = mount.pid
    assert thincow("freeze", pid_file) == ""
    try:
        assert thincow("freeze", pid_file) == (
            f"thincow: process {pid} is stopped already, it is not known in what state: "
            "thaw it first\n"
        )
        assert state(pid) == "T"
    finally:
        assert thincow("thaw", pid_file) == ""


@pytest.mark.parametrize("command", ["freeze", "thaw"])
def test_pid_file_that_nobody_holds_is_an_error(mount: Mount, pid_file: Path, command: str) -> None:
    missing = f"thincow: pid file {pid_file}: No such file or directory\n"
    assert thincow(command, pid_file) == missing
    mount.add("disk", bytes(BLOCK))
    mount.start("--pid-file", pid_file)
    mount.kill()
    stale = f"thincow: no thincow runs with the pid file {pid_file}\n"
    assert thincow(command, pid_file) == stale
    # Its number may be that of some other process by now.
    pid_file.write_text(f"{os.getpid()}\n")
    assert thincow(command, pid_file) == stale


def test_freeze_of_a_process_that_serves_no_mount_is_an_error(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    holder = ["flock", "--no-fork", pid_file, "sleep", "100"]
    with subprocess.Popen(holder) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while "no thincow runs" in (answer := thincow("freeze", pid_file)):
                assert time.monotonic() < deadline
            assert answer == (
                f"thincow: process {process.pid} is starting or ending: it cannot be frozen now\n"
            )
        finally:
            process.kill()


def test_mount_that_cannot_save_does_not_freeze(mount: Mount, pid_file: Path) -> None:
    mount.add("disk", bytes(16 * BLOCK))
    mount.start("--pid-file", pid_file)
    (mount.devs / "disk").write_bytes(os.urandom(16 * BLOCK))
    with closing(sqlite3.connect(mount.database, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        pid = mount_pid(pid_file)
        assert thincow("freeze", pid_file, "--timeout", "4") == (
            f"thincow: process {pid} did not freeze within 4 s and goes on; see its log\n"
        )
    assert "not frozen, since a copy would lack changes: metadata.db" in mount.read_log()
    with frozen(pid_file):
        pass


def test_freezing_that_was_given_up_does_not_happen_later(mount: Mount, pid_file: Path) -> None:
    mount.add("disk", bytes(16 * BLOCK))
    mount.start("--pid-file", pid_file)
    pid = mount.pid
    with closing(sqlite3.connect(mount.database, isolation_level=None)) as shell:
        (mount.devs / "disk").write_bytes(os.urandom(16 * BLOCK))
        shell.execute("BEGIN IMMEDIATE")
        with subprocess.Popen(["sync", mount.devs / "disk"], stderr=subprocess.DEVNULL) as sync:
            time.sleep(0.2)  # its commit waits for the shell, and freezing for the commit
            os.kill(pid, signal.SIGTSTP)
            time.sleep(0.2)
            os.kill(pid, signal.SIGCONT)
            sync.wait()
    assert mount.pid == pid
    assert state(pid) != "T"
    assert "frozen" not in mount.read_log()


def test_forgotten_reader_does_not_keep_a_mount_from_freezing(
    mount: Mount, pid_file: Path, new_mount: NewMount
) -> None:
    mount.add("disk", bytes(64 * BLOCK))
    mount.start("--pid-file", pid_file)
    copy = new_mount("copy", mount.upstream)
    with closing(sqlite3.connect(mount.database, isolation_level=None)) as shell:
        shell.execute("BEGIN")
        shell.execute("SELECT count(*) FROM extents").fetchall()
        new = os.urandom(64 * BLOCK)
        (mount.devs / "disk").write_bytes(new)
        with frozen(pid_file):
            copy_store(mount, copy)
    assert copy.database.with_name("metadata.db-wal").stat().st_size > 0
    assert copy.fsck("--deep").returncode == 0
    copy.start()
    assert (copy.devs / "disk").read_bytes() == new


def test_freezing_waits_for_the_end_of_a_batch(mount: Mount, pid_file: Path) -> None:
    backing, faulty = mount.directory / "backing", mount.directory / "faulty"
    for directory in (backing, faulty):
        directory.mkdir()
    (backing / "disk").write_bytes(bytes(64 * BLOCK))
    with faulty_disk(backing, faulty) as disk:
        (mount.upstream / "disk").symlink_to(disk.path("disk"))
        mount.start("--pid-file", pid_file)
        pid = mount.pid
        (mount.devs / "disk").write_bytes(os.urandom(64 * BLOCK))
        disk.fail("hold")
        with flushing(mount) as flush:
            wait_for_batch(mount)
            complaint = thincow("freeze", pid_file, "--timeout", "0.5")
            assert "did not freeze within 0.5 s" in complaint
            os.kill(pid, signal.SIGTSTP)
            disk.fail()
            wait_for_state(pid, stopped=True)
            assert count_marks(mount) == 0
            assert thincow("thaw", pid_file) == ""
            assert flush.wait() == 0
        assert (mount.point / "flush").read_text() == "clean\n"
        mount.umount()


@contextmanager
def flushing(mount: Mount) -> Iterator[subprocess.Popen[bytes]]:
    """Run a full flush beside the block."""
    with subprocess.Popen(
        ["tee", mount.point / "flush"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as flush:
        assert flush.stdin is not None
        flush.stdin.write(b"full\n")
        flush.stdin.close()
        yield flush


def test_freezing_takes_effect_between_batches_of_a_flush(
    mount: Mount, pid_file: Path, new_mount: NewMount
) -> None:
    chance = random.Random(seed := random.randrange(1 << 32))
    print(f"seed {seed}")
    blocks = 20_000  # two batches
    old = os.urandom(blocks * BLOCK)
    mount.add("disk", old)
    mount.start("--pid-file", pid_file)
    new = os.urandom(blocks * BLOCK)
    (mount.devs / "disk").write_bytes(new)
    with flushing(mount) as flush:
        for index in range(2):
            time.sleep(chance.uniform(0, 0.2))
            with frozen(pid_file):
                upstream = mount.directory / f"upstream{index}"
                shutil.copytree(mount.upstream, upstream, copy_function=shutil.copy2)
                copy = new_mount(f"copy{index}", upstream)
                copy_store(mount, copy)
                assert count_marks(copy) == 0
            copy.start("--force")  # the copies of the devices are other files
            assert (copy.devs / "disk").read_bytes() == new
            copy.umount()
            shutil.rmtree(copy.data)
            (upstream / "disk").unlink()
        assert flush.wait() == 0
    assert (mount.upstream / "disk").read_bytes() == new
    assert (mount.point / "flush").read_text() == "clean\n"


def test_mount_in_the_foreground_stops_at_ctrl_z(mount: Mount, new_mount: NewMount) -> None:
    new = os.urandom(16 * BLOCK)
    mount.add("disk", bytes(16 * BLOCK))
    controller, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            ["setsid", "--ctty", *thincow_command(*mount.arguments("-f"))],
            env=thincow_environment(),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        ) as process:
            deadline = time.monotonic() + PATIENCE_S
            while not mount.devs.exists():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            (mount.devs / "disk").write_bytes(new)
            os.write(controller, b"\x1a")
            wait_for_state(process.pid, stopped=True)
            copy = new_mount("copy", mount.upstream)
            copy_store(mount, copy)
            process.send_signal(signal.SIGCONT)
            assert (mount.devs / "disk").read_bytes() == new
            mount.umount()
            assert process.wait() == 0
    finally:
        os.close(controller)
        os.close(terminal)
    copy.start()
    assert (copy.devs / "disk").read_bytes() == new
