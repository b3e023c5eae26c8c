"""From `thincow mount` to the closed store."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.loop_devices import loop_device
from tests.support.mounting import (
    Mount,
    is_mounted,
    run_thincow,
    shell,
    thincow_command,
    thincow_environment,
    wait_for_end,
)

CONTENT = os.urandom(5 * 4096)
NEW = os.urandom(4096)


@pytest.fixture(autouse=True)
def upstream(mount: Mount) -> Path:
    return mount.add("disk", CONTENT)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def write_new(mount: Mount) -> None:
    with (mount.devs / "disk").open("r+b") as file:
        file.write(NEW)


def assert_new_was_saved(mount: Mount) -> None:
    mount.start()
    assert (mount.devs / "disk").read_bytes() == NEW + CONTENT[4096:]


def test_mount_is_usable_when_the_command_returns(mount: Mount) -> None:
    mount.start()
    assert (mount.devs / "disk").read_bytes() == CONTENT


def test_mount_detaches_completely(mount: Mount) -> None:
    read_end, write_end = os.pipe()
    subprocess.run(
        thincow_command(*mount.arguments()),
        check=True,
        env=thincow_environment(),
        pass_fds=[write_end],
        stdout=write_end,
        stderr=write_end,
    )
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        assert pipe.read() == b""  # ends only when nobody holds the other end
    pid = mount.pid
    process = Path("/proc") / str(pid)
    assert {str((process / "fd" / fd).readlink()) for fd in "012"} == {"/dev/null"}
    assert os.getsid(pid) == pid
    assert (process / "cwd").readlink() == Path("/")


def test_mount_with_relative_paths(mount: Mount) -> None:
    names = [os.path.relpath(path, mount.directory) for path in (mount.upstream, mount.data)]
    done = run_thincow(
        "mount", "--upstream", names[0], "--data-dir", names[1], "mnt", cwd=mount.directory
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (mount.devs / "disk").read_bytes() == CONTENT


def test_umount_returns_when_the_process_has_ended(mount: Mount) -> None:
    mount.start()
    write_new(mount)
    pid = mount.pid
    mount.umount()
    assert has_ended(pid)
    assert_new_was_saved(mount)


def test_umount_through_a_symbolic_link(mount: Mount) -> None:
    mount.start()
    link = mount.directory / "link"
    link.symlink_to(mount.point)
    assert run_thincow("umount", link).returncode == 0
    assert not is_mounted(mount.point)


def test_fusermount_closes_the_store(mount: Mount) -> None:
    mount.start()
    write_new(mount)
    pid = mount.pid
    shell("fusermount3", "-u", mount.point)
    wait_for_end(pid)
    assert_new_was_saved(mount)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_unmounts_and_closes_the_store(mount: Mount, number: signal.Signals) -> None:
    mount.start()
    write_new(mount)
    pid = mount.pid
    os.kill(pid, number)
    wait_for_end(pid)
    assert not is_mounted(mount.point)
    assert_new_was_saved(mount)


def test_signals_in_quick_succession_do_not_cut_the_end_off(mount: Mount) -> None:
    mount.start()
    write_new(mount)
    pid = mount.pid
    process = os.pidfd_open(pid)
    try:
        while True:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            time.sleep(0.001)
    except ProcessLookupError:
        os.close(process)
    assert not is_mounted(mount.point)
    assert_new_was_saved(mount)


def test_signal_ends_a_busy_mount(mount: Mount) -> None:
    mount.start()
    pid = mount.pid
    fd = os.open(mount.devs / "disk", os.O_RDWR)
    os.write(fd, NEW)
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert not is_mounted(mount.point)
    with pytest.raises(OSError, match="not connected"):
        os.pread(fd, 512, 4096)
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)
    assert_new_was_saved(mount)


def test_foreground_logs_to_stderr_and_ends_with_0(mount: Mount) -> None:
    arguments = thincow_command(*mount.arguments("-f"))
    with subprocess.Popen(
        arguments, env=thincow_environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        while not is_mounted(mount.point):
            assert process.poll() is None
            time.sleep(0.01)
        assert mount.pid == process.pid
        write_new(mount)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "mounted" in log
    assert "unmounted" in log
    assert_new_was_saved(mount)


def test_umount_of_a_busy_mount_names_the_process(mount: Mount) -> None:
    mount.start()
    with (mount.devs / "disk").open("rb"):
        done = run_thincow("umount", mount.point)
    assert done.returncode == 1
    assert f"(pid {os.getpid()}) uses {mount.devs}/disk" in done.stderr
    assert done.stderr.count("\n") == 1
    assert (mount.devs / "disk").read_bytes() == CONTENT


def test_umount_names_a_process_by_its_working_directory(mount: Mount) -> None:
    mount.start()
    with subprocess.Popen(["sleep", "60"], cwd=mount.devs) as process:
        done = run_thincow("umount", mount.point)
        process.kill()
    assert done.returncode == 1
    assert f"sleep (pid {process.pid}) uses {mount.devs}" in done.stderr


@pytest.mark.needs_root
def test_umount_names_a_loop_device(mount: Mount) -> None:
    mount.start()
    with loop_device(mount.devs / "disk") as loop:
        done = run_thincow("umount", mount.point)
        assert done.returncode == 1
        assert f"loop device {loop} uses {mount.devs}/disk" in done.stderr
        assert is_mounted(mount.point)


def test_umount_from_inside_is_not_held_up_by_itself(mount: Mount) -> None:
    mount.start()
    done = run_thincow("umount", "..", cwd=mount.devs)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mounted(mount.point)


def test_umount_of_something_else_is_refused(mount: Mount) -> None:
    done = run_thincow("umount", mount.point)
    assert (done.returncode, done.stderr) == (
        1,
        f"thincow: {mount.point} is not a thincow mount\n",
    )


def test_dead_mount_is_recovered_with_one_message(mount: Mount) -> None:
    mount.start()
    mount.kill()
    assert is_mounted(mount.point)
    done = mount.try_start()
    assert done.returncode == 0
    assert done.stderr == (
        f"thincow: {mount.point} was left mounted by a thincow that died; recovered it\n"
    )
    assert (mount.devs / "disk").read_bytes() == CONTENT


def test_dead_mount_is_recovered_while_files_are_open_in_it(mount: Mount) -> None:
    mount.start()
    fd = os.open(mount.devs / "disk", os.O_RDONLY)
    mount.kill()
    mount.start()
    assert (mount.devs / "disk").read_bytes() == CONTENT
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)


def test_umount_of_a_dead_mount_takes_it_down_and_says_so(mount: Mount) -> None:
    mount.start()
    mount.kill()
    done = run_thincow("umount", mount.point)
    assert done.returncode == 1
    assert "died" in done.stderr
    assert not is_mounted(mount.point)


def test_process_that_dies_before_it_is_ready_is_reported(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    environment = thincow_environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = subprocess.run(
        thincow_command(*mount.arguments()),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "thincow: the mounting process was killed by signal 9 before the mount was ready\n"
    )


def test_mount_refused_by_the_kernel_is_not_called_ready(mount: Mount, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from thincow.mount import options\n"
        "options._VALUE_OPTIONS = frozenset({'max_read'})\n"  # agreed to, then broken off
    )
    environment = thincow_environment()
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    done = subprocess.run(
        thincow_command(*mount.arguments("-o", "max_read=65536")),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"thincow: {mount.point} was unmounted before it could be used\n" in done.stderr


def test_signal_leaves_a_later_mount_on_the_mount_point_alone(
    mount: Mount, new_mount: NewMount
) -> None:
    mount.start()
    pid = mount.pid
    fd = os.open(mount.devs / "disk", os.O_RDONLY)
    shell("fusermount3", "-u", "-z", mount.point)
    other = new_mount("other")
    other.add("other", b"x")
    other.point = mount.point
    other.start()
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert (other.devs / "other").read_bytes() == b"x"
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)


def test_no_mount_creates_the_store_and_mounts_nothing(mount: Mount) -> None:
    done = mount.try_start("--no-mount")
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mounted(mount.point)
    assert mount.database.exists()
