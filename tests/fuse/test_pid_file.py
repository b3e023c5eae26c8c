"""--pid-file through the command; the lock decides who runs, not the number."""

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.mounting import Mount, wait_for_end


@pytest.fixture
def pid_file(mount: Mount) -> Path:
    mount.add("disk", bytes(4096))
    return mount.directory / "pid"


def test_pid_file_holds_the_serving_process(mount: Mount, pid_file: Path) -> None:
    mount.start("--pid-file", pid_file)
    assert pid_file.read_text() == f"{mount.pid}\n"


def test_pid_file_is_removed_at_a_clean_end(mount: Mount, pid_file: Path) -> None:
    mount.start("--pid-file", pid_file)
    mount.umount()
    assert not pid_file.exists()


def test_pid_file_can_be_used_to_end_the_mount(mount: Mount, pid_file: Path) -> None:
    mount.start("--pid-file", pid_file)
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert not pid_file.exists()


def test_pid_file_left_by_a_killed_process_is_overwritten(mount: Mount, pid_file: Path) -> None:
    mount.start("--pid-file", pid_file)
    mount.kill()
    assert pid_file.exists()
    mount.start("--pid-file", pid_file)
    assert pid_file.read_text() == f"{mount.pid}\n"


def test_pid_file_with_other_content_is_overwritten(mount: Mount, pid_file: Path) -> None:
    pid_file.write_text("1234567890 and more that is longer than a number\n")
    mount.start("--pid-file", pid_file)
    assert pid_file.read_text() == f"{mount.pid}\n"


def test_pid_file_in_use_refuses_a_second_instance(
    mount: Mount, pid_file: Path, new_mount: NewMount
) -> None:
    mount.start("--pid-file", pid_file)
    other = new_mount("other", mount.upstream)
    done = other.try_start("--pid-file", pid_file)
    assert done.returncode == 1
    assert done.stderr == (
        f"thincow: pid file {pid_file} is held by another thincow (process {mount.pid})\n"
    )
    assert not other.data.exists()
    assert pid_file.read_text() == f"{mount.pid}\n"


def test_pid_file_of_a_failed_mount_is_not_left(mount: Mount, pid_file: Path) -> None:
    (mount.upstream / "disk").unlink()
    assert mount.try_start("--pid-file", pid_file).returncode == 1
    assert not pid_file.exists()


def test_pid_file_in_a_missing_directory_is_an_error(mount: Mount, pid_file: Path) -> None:
    done = mount.try_start("--pid-file", pid_file / "missing")
    assert done.returncode == 1
    assert done.stderr == f"thincow: pid file {pid_file}/missing: No such file or directory\n"
    assert not mount.data.exists()
