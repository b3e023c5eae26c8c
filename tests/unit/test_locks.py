import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.loop_devices import loop_device, mounted
from thincow.errors import ConfigurationError, StoreInUseError
from thincow.store.locks import DirectoryLock, lock_directories

_HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_EX if sys.argv[2] == "exclusive" else fcntl.LOCK_SH)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(request: pytest.FixtureRequest, tmp_path: Path):
    """Another process that holds a lock on tmp_path; the parameter says which kind."""
    command = [sys.executable, "-c", _HOLDER, str(tmp_path), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process


@pytest.mark.parametrize("holder", ["exclusive", "shared"], indirect=True)
def test_lock_held_elsewhere_names_directory_and_pid(holder, tmp_path):
    with pytest.raises(StoreInUseError) as error:
        DirectoryLock.acquire(tmp_path, exclusive=True)
    assert str(error.value) == f"{tmp_path} is in use by process {holder.pid}"


@pytest.mark.parametrize("holder", ["shared"], indirect=True)
def test_lock_shared_by_readers(holder, tmp_path):
    DirectoryLock.acquire(tmp_path, exclusive=False).release()


@pytest.mark.parametrize("holder", ["shared"], indirect=True)
def test_lock_names_all_holders(holder, tmp_path):
    lock = DirectoryLock.acquire(tmp_path, exclusive=False)
    with pytest.raises(StoreInUseError) as error:
        DirectoryLock.acquire(tmp_path, exclusive=True)
    lock.release()
    pids = sorted([holder.pid, os.getpid()])
    assert str(error.value).endswith(f"processes {pids[0]}, {pids[1]}")


def test_lock_is_refused_twice_in_one_process(tmp_path):
    lock = DirectoryLock.acquire(tmp_path, exclusive=True)
    with pytest.raises(StoreInUseError, match=f"process {os.getpid()}$"):
        DirectoryLock.acquire(tmp_path, exclusive=False)
    lock.release()
    lock.release()
    DirectoryLock.acquire(tmp_path, exclusive=True).release()


def test_lock_release_is_not_outlived_by_a_copied_descriptor(tmp_path):
    lock = DirectoryLock.acquire(tmp_path, exclusive=True)
    pid = os.fork()
    if pid == 0:
        # The child keeps its copy of the descriptor while the test goes on.
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        lock.release()
        DirectoryLock.acquire(tmp_path, exclusive=True).release()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_lock_leaves_the_directory_untouched(tmp_path):
    before = tmp_path.stat()
    DirectoryLock.acquire(tmp_path, exclusive=True).release()
    after = tmp_path.stat()
    assert list(tmp_path.iterdir()) == []
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ctime_ns == before.st_ctime_ns


def test_lock_of_a_missing_directory_or_a_file_is_an_error(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for path in (file, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match=str(path)):
            DirectoryLock.acquire(path, exclusive=True)


def test_lock_directories_takes_one_directory_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "other").mkdir()
    names = ("real", "link", "other")
    locks = lock_directories([tmp_path / name for name in names], exclusive=True)
    assert [lock.path.name for lock in locks] == ["real", "other"]
    for lock in locks:
        lock.release()


def test_lock_directories_takes_all_or_none(tmp_path):
    free, held = tmp_path / "free", tmp_path / "held"
    free.mkdir()
    held.mkdir()
    lock = DirectoryLock.acquire(held, exclusive=True)
    with pytest.raises(StoreInUseError, match="held is in use"):
        lock_directories([free, held], exclusive=True)
    with pytest.raises(ConfigurationError, match="missing"):
        lock_directories([free, tmp_path / "missing"], exclusive=True)
    DirectoryLock.acquire(free, exclusive=True).release()
    lock.release()


@pytest.mark.needs_root
@pytest.mark.parametrize("filesystem", ["ext4", "btrfs"])
def test_lock_works_on_a_read_only_filesystem(tmp_path, filesystem):
    image, mountpoint = tmp_path / "image", tmp_path / "mounted"
    mountpoint.mkdir()
    with image.open("wb") as file:
        file.truncate(160 << 20)
    subprocess.run([f"mkfs.{filesystem}", "-q", image], check=True)
    with loop_device(image) as loop, mounted(loop, mountpoint, "-o", "ro"):
        lock = DirectoryLock.acquire(mountpoint, exclusive=True)
        # btrfs has another device number in /proc/locks than in stat: the pid is found all the same
        with pytest.raises(StoreInUseError, match=f"process {os.getpid()}$"):
            DirectoryLock.acquire(mountpoint, exclusive=False)
        lock.release()


def test_lock_ignores_posix_locks(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        DirectoryLock.acquire(tmp_path, exclusive=True).release()
