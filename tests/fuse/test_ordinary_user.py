"""Without root: install, mount, use, check and unmount."""

import os
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.mounting import CHECKOUT, is_mounted, run_thincow, shell

USER = "nobody"
FUSE_DEVICE = Path("/dev/fuse")
PACKAGES = sysconfig.get_path("purelib")
BASE_PREFIX = Path(sys.base_prefix).resolve()
CONTENT = os.urandom(100_000)


class OrdinaryUser:
    """Runs commands as a user who may look neither at the checkout nor at root's home.

    The interpreter and the packages are therefore shown to them in a directory of their own.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.packages = home / "packages"
        self.prefix = home / "python"
        executable = Path(sys.executable).resolve()
        self.python = self.prefix / executable.relative_to(BASE_PREFIX)
        for name in ("upstream", "mnt", "packages", "python"):
            (home / name).mkdir()
        (home / "upstream/disk").write_bytes(CONTENT)
        for name in ("thincow", "schema", "migrations"):
            shell("cp", "-r", CHECKOUT / name, home / name)
        shell("chown", "-R", USER, home)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            user=USER,
            group="nogroup",
            extra_groups=[],
            cwd=self.home,
            env={
                "PATH": os.environ["PATH"],
                "LD_LIBRARY_PATH": str(self.prefix / "lib"),
                "PYTHONPATH": f"{self.home}:{self.packages}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def thincow(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return self.run(self.python, "-m", "thincow", *arguments)

    def mount(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.thincow(
            "mount", "--upstream", "upstream", "--data-dir", "data", *options, "mnt"
        )


@pytest.fixture
def user() -> Iterator[OrdinaryUser]:
    with TemporaryDirectory(prefix="thincow-user-", dir="/tmp") as directory:
        home = Path(directory)
        home.chmod(0o755)
        user = OrdinaryUser(home)
        with ExitStack() as stack:
            for source, place in ((PACKAGES, user.packages), (BASE_PREFIX, user.prefix)):
                shell("mount", "--bind", source, place)
                stack.callback(shell, "umount", "-l", place)
            # As udev leaves it on every ordinary machine; a bare container may have no udev.
            stack.callback(FUSE_DEVICE.chmod, stat.S_IMODE(FUSE_DEVICE.stat().st_mode))
            FUSE_DEVICE.chmod(0o666)
            yield user
            if is_mounted(home / "mnt"):
                shell("umount", "-l", home / "mnt")


@pytest.mark.needs_root
def test_ordinary_user_mounts_uses_checks_and_unmounts(user: OrdinaryUser) -> None:
    done = user.mount()
    assert (done.returncode, done.stderr) == (0, "")
    assert user.run("cmp", "upstream/disk", "mnt/devs/disk").returncode == 0
    assert user.run("sh", "-c", "echo new > mnt/devs/disk").returncode == 0
    assert user.run("cat", "mnt/stats-full.txt").stdout
    done = user.thincow("umount", "mnt")
    assert (done.returncode, done.stderr) == (0, "")
    assert user.thincow("fsck", "--data-dir", "data").returncode == 0
    assert (user.home / "upstream/disk").read_bytes() == CONTENT
    assert user.mount().returncode == 0
    assert user.run("head", "-c", "4", "mnt/devs/disk").stdout == "new\n"
    assert user.thincow("umount", "mnt").returncode == 0


@pytest.mark.needs_root
def test_root_unmounts_another_users_mount(user: OrdinaryUser) -> None:
    assert user.mount().returncode == 0
    done = run_thincow("umount", user.home / "mnt")
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mounted(user.home / "mnt")


@pytest.mark.needs_root
def test_root_flushes_another_users_mount(user: OrdinaryUser) -> None:
    assert user.mount().returncode == 0
    assert user.run("sh", "-c", "echo new > mnt/devs/disk").returncode == 0
    done = run_thincow("flush", user.home / "mnt")
    assert (done.returncode, done.stderr) == (0, "")
    assert (user.home / "upstream/disk").read_bytes() == b"new\n" + CONTENT[4:]
    assert user.thincow("umount", "mnt").returncode == 0


@pytest.mark.needs_root
def test_busy_mount_of_an_ordinary_user_is_named(user: OrdinaryUser) -> None:
    assert user.mount().returncode == 0
    command = f"exec 3<mnt/devs/disk; {user.python} -m thincow umount mnt 3<&-; exit $?"
    done = user.run("sh", "-c", command)
    assert done.returncode == 1
    assert "mnt/devs/disk" in done.stderr
    assert user.thincow("umount", "mnt").returncode == 0


@pytest.mark.needs_root
def test_what_needs_root_says_so_in_one_line(user: OrdinaryUser) -> None:
    for options in (["-o", "allow_other"], ["-o", "dev"]):
        done = user.mount(*options)
        assert done.returncode == 1
        assert "root" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (user.home / "data").exists()


@pytest.mark.needs_root
def test_mount_point_of_another_user_is_refused(user: OrdinaryUser) -> None:
    (user.home / "mnt").chmod(0o755)
    os.chown(user.home / "mnt", 0, 0)
    done = user.mount()
    assert done.returncode == 1
    assert done.stderr.endswith("mnt may not be written to by this user\n")
    assert done.stderr.count("\n") == 1
    assert not (user.home / "data").exists()


@pytest.mark.needs_root
def test_dead_mount_of_an_ordinary_user_is_recovered(user: OrdinaryUser) -> None:
    assert user.mount().returncode == 0
    pid = int(user.run("cat", "mnt/debug/pid.txt").stdout)
    os.kill(pid, 9)
    done = user.mount()
    assert done.returncode == 0
    assert "recovered" in done.stderr
    assert user.thincow("umount", "mnt").returncode == 0


@pytest.mark.needs_root
def test_device_that_may_not_be_read_is_named(user: OrdinaryUser) -> None:
    secret = user.home / "upstream/secret"
    secret.write_bytes(CONTENT)
    secret.chmod(0o600)
    os.chown(secret, 0, 0)
    done = user.mount()
    assert done.returncode == 1
    assert "upstream device secret: Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (user.home / "data").exists()


@pytest.mark.needs_root
@pytest.mark.parametrize("exists", [False, True])
def test_data_directory_that_may_not_be_written_is_named(user: OrdinaryUser, exists: bool) -> None:
    foreign = user.home / "foreign"
    foreign.mkdir(mode=0o755)
    data = foreign / "data" if not exists else foreign
    done = user.thincow("mount", "--upstream", "upstream", "--data-dir", data, "mnt")
    assert done.returncode == 1
    assert f"{foreign} is not writable" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(foreign.iterdir()) == []


@pytest.mark.needs_root
def test_store_of_another_user_can_be_looked_at_read_only(user: OrdinaryUser) -> None:
    assert user.mount().returncode == 0
    assert user.run("sh", "-c", "echo new > mnt/devs/disk").returncode == 0
    assert user.thincow("umount", "mnt").returncode == 0
    shell("chown", "-R", "root", user.home / "data")
    shell("chmod", "-R", "a+rX", user.home / "data")
    done = user.mount()
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    done = user.mount("-R")
    assert (done.returncode, done.stderr) == (0, "")
    assert user.run("head", "-c", "4", "mnt/devs/disk").stdout == "new\n"
    assert user.thincow("umount", "mnt").returncode == 0
