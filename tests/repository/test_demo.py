"""The demo keeps its promises: the user's file stays as it is, and nothing is left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "tools" / "demo"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Let the demo work in a directory of its own, so that leftovers can be seen."""
    (tmp_path / "work").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "work")}


def leftovers(environment: dict[str, str]) -> list[str]:
    """Return files, mounts and loop devices that a demo left behind."""
    work = environment["TMPDIR"]
    loops = subprocess.run(["losetup", "-nO", "BACK-FILE"], check=True, capture_output=True)
    places = [*loops.stdout.decode().splitlines(), *Path("/proc/mounts").read_text().splitlines()]
    return [*map(str, Path(work).iterdir()), *(place for place in places if work in place)]


def make_ext4(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)


def make_other(image: Path) -> None:
    image.write_bytes(os.urandom(100_000))


@pytest.mark.parametrize("make", [make_ext4, make_other])
def test_demo_leaves_own_file_unchanged(make, environment: dict[str, str], tmp_path: Path) -> None:
    image = tmp_path / "my disk.img"
    make(image)
    before = image.read_bytes(), image.stat().st_mtime_ns
    result = subprocess.run(
        [DEMO, image], check=False, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Your file is unchanged" in result.stdout
    assert (image.read_bytes(), image.stat().st_mtime_ns) == before
    assert leftovers(environment) == []


def test_demo_refuses_what_is_no_file(environment: dict[str, str], tmp_path: Path) -> None:
    result = subprocess.run(
        [DEMO, tmp_path / "absent"], check=False, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1


def test_demo_interrupted_leaves_nothing_behind(environment: dict[str, str]) -> None:
    # Whoever runs tests in the background may ignore SIGINT, and a shell cannot undo that.
    demo = subprocess.Popen(
        ["env", "--default-signal=INT", DEMO],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    with demo.stdout:
        for line in demo.stdout:
            if "resize2fs" in line:  # the mount is there and in use
                break
        time.sleep(0.2)
        os.killpg(demo.pid, signal.SIGINT)
        demo.stdout.read()
    assert demo.wait() == 128 + signal.SIGINT
    assert leftovers(environment) == []
