"""`thincow flush`: whole, in parts, planned, watched and cancelled, through real mounts."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.faulty_disk import FaultyDisk, faulty_disk
from tests.support.flushing import state, write
from tests.support.loop_devices import loop_device
from tests.support.mounting import (
    Mount,
    is_mounted,
    run_thincow,
    thincow_command,
    thincow_environment,
    wait_for_end,
)

BLOCK = 4096
ATTRIBUTE = "user.thincow.flush"


def flush(mount: Mount, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return run_thincow("flush", *options, mount.point)


def check_flushed(mount: Mount, *names: str) -> None:
    for name in names:
        assert (mount.upstream / name).read_bytes() == (mount.devs / name).read_bytes()


def check_refused(done: subprocess.CompletedProcess[str], text: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
    assert done.stderr.startswith("thincow: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def swapped(mount: Mount) -> Mount:
    """a and b have changed places, c shows a block of a besides new ones, d is untouched."""
    contents = {name: os.urandom(8 * BLOCK) for name in "abcd"}
    for name, content in contents.items():
        mount.add(name, content)
    mount.start()
    for name in contents:
        (mount.devs / name).read_bytes()
    write(mount, "c", contents["a"][:BLOCK] + os.urandom(3 * BLOCK))
    write(mount, "a", contents["b"])
    write(mount, "b", contents["a"])
    return mount


def test_flush_writes_everything(swapped: Mount) -> None:
    done = flush(swapped)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "written: 80.0 KiB, clean\n"
    assert state(swapped) == "clean"
    check_flushed(swapped, *"abcd")
    assert flush(swapped).stdout == "written: 0 B, clean\n"


def test_flush_prints_json(swapped: Mount) -> None:
    done = flush(swapped, "--json")
    result = json.loads(done.stdout)
    assert (result["status"], result["cancelled"], result["error"]) == ("clean", False, None)
    assert (result["written_bytes"], result["left_bytes"]) == (20 * BLOCK, 0)
    assert [device["written_bytes"] // BLOCK for device in result["devices"]] == [8, 8, 4, 0]


def test_flush_of_some_blocks(swapped: Mount) -> None:
    done = flush(swapped, "--blocks", "5")
    assert done.returncode == 0
    assert done.stdout == "written: 20.0 KiB, left: 60.0 KiB\n"
    assert state(swapped) == "ready"


def test_flush_in_one_pass_leaves_cycles(swapped: Mount) -> None:
    done = flush(swapped, "--pass")
    assert done.returncode == 0
    assert done.stdout == "written: 16.0 KiB, left: 64.0 KiB\n"
    check_flushed(swapped, "c", "d")


def test_flush_of_some_devices_says_what_waits(swapped: Mount) -> None:
    done = flush(swapped, "--device", "a")
    assert done.returncode == 1
    assert "8 blocks of a cannot be flushed alone, since b still shows what is there" in done.stderr
    assert "since c still shows what is there: flush c too" in done.stderr
    assert done.stderr.count("\n") == 1
    assert flush(swapped, "--device", "c").returncode == 0
    done = flush(swapped, "--device", "a", "--device", "b")
    assert (done.returncode, done.stdout) == (0, "written: 64.0 KiB, clean\n")
    check_flushed(swapped, *"abcd")
    assert state(swapped) == "clean"


def test_dry_run_tells_what_the_flush_does(swapped: Mount) -> None:
    write(swapped, "d", (swapped.upstream / "d").read_bytes()[:BLOCK][::-1], 6 * BLOCK)
    before = {name: (swapped.upstream / name).read_bytes() for name in "abcd"}
    done = flush(swapped, "--dry-run", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert {name: (swapped.upstream / name).read_bytes() for name in "abcd"} == before
    assert (plan["cycles"], plan["cycle_bytes"], plan["space_bytes"]) == (8, 16 * BLOCK, BLOCK)
    assert plan["devices"][0]["shown_by"] == {"b": 8 * BLOCK, "c": BLOCK}
    assert plan["devices"][2]["ranges"] == [{"offset_bytes": 0, "length_bytes": 4 * BLOCK}]
    result = json.loads(flush(swapped, "--json").stdout)
    for planned, did in zip(plan["devices"], result["devices"], strict=True):
        assert planned["name"] == did["name"]
        assert planned["write_bytes"] == did["written_bytes"]
        assert planned["equal_bytes"] == did["equal_bytes"]


def test_dry_run_is_readable(swapped: Mount) -> None:
    assert flush(swapped, "--dry-run").stdout.splitlines() == [
        "device    to write  upstream already",
        "a         32.0 KiB  0 B",
        "b         32.0 KiB  0 B",
        "c         16.0 KiB  0 B",
        "d         0 B       0 B",
        "together  80.0 KiB  0 B",
        "cycles: 8 (64.0 KiB); 4.0 KiB of space for the store will do, more is faster",
        "",
        "biggest ranges  at byte  length",
        "a               0        32.0 KiB",
        "b               0        32.0 KiB",
        "c               0        16.0 KiB",
    ]
    lines = flush(swapped, "--dry-run", "--device", "b").stdout.splitlines()
    assert lines[:3] == [
        "device  to write  upstream already",
        "b       32.0 KiB  0 B",
        "a still shows 32.0 KiB of b: flush a too",
    ]


def test_what_upstream_holds_already_is_left_out(mount: Mount) -> None:
    content = os.urandom(8 * BLOCK)
    mount.add("disk", content)
    mount.start()
    write(mount, "disk", content[: 7 * BLOCK] + os.urandom(BLOCK))
    plan = json.loads(flush(mount, "--dry-run", "--json").stdout)
    result = json.loads(flush(mount, "--json").stdout)
    planned, did = plan["devices"][0], result["devices"][0]
    assert (planned["write_bytes"], planned["equal_bytes"]) == (
        did["written_bytes"],
        did["equal_bytes"],
    )
    assert did["written_bytes"] + did["equal_bytes"] == 8 * BLOCK
    assert result["status"] == "clean"
    check_flushed(mount, "disk")


def test_wrong_mount_points_are_refused_in_one_line(mount: Mount, tmp_path: Path) -> None:
    for point in (mount.point, tmp_path / "missing", Path("/proc")):
        check_refused(run_thincow("flush", point), f"{point} is not a thincow mount")
    mount.add("disk", bytes(BLOCK))
    mount.start()
    check_refused(flush(mount, "--device", "x"), "has no device x")
    mount.kill()
    check_refused(flush(mount), "does not answer")


@pytest.mark.parametrize("options", [("-r",), ("-R",)], ids=["upstream", "all"])
def test_read_only_mount_is_planned_but_not_flushed(mount: Mount, options: tuple[str, ...]) -> None:
    mount.add("disk", os.urandom(8 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(2 * BLOCK))
    mount.restart(*options)
    check_refused(flush(mount), "flushing is disabled in this mount")
    plan = json.loads(flush(mount, "--dry-run", "--json").stdout)
    assert plan["devices"][0]["write_bytes"] == 2 * BLOCK


@pytest.mark.needs_root
def test_busy_upstream_is_named(mount: Mount) -> None:
    path = mount.add("disk", os.urandom(8 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    with loop_device(path) as loop:
        done = flush(mount)
        assert done.returncode == 1
        assert f"upstream device disk cannot be written: {loop} is attached to it" in done.stderr
        assert done.stderr.count("\n") == 1
    assert flush(mount).returncode == 0


def test_attribute_takes_only_commands(swapped: Mount) -> None:
    for words in ("all", "", "-1", "full/", "cancel/a", "full\n"):
        with pytest.raises(OSError, match=r"Invalid argument|No such device"):
            os.setxattr(swapped.point, ATTRIBUTE, words.encode())
    for path, name in ((swapped.devs, ATTRIBUTE), (swapped.point, "user.other")):
        with pytest.raises(OSError, match="not supported"):
            os.setxattr(path, name, b"full")
    assert state(swapped) == "ready"
    os.setxattr(swapped.point, ATTRIBUTE, b"cancel")


SIZE = 70 << 20
"""More than a batch."""


@pytest.fixture
def held(new_mount: NewMount, tmp_path: Path) -> Iterator[tuple[Mount, FaultyDisk]]:
    """A mount with two batches to flush, of which the first one does not get on."""
    mount = new_mount("held")
    for name in ("backing", "faulty"):
        (tmp_path / name).mkdir()
    with (tmp_path / "backing/disk").open("wb") as file:
        file.truncate(SIZE)
    with faulty_disk(tmp_path / "backing", tmp_path / "faulty") as disk:
        (mount.upstream / "disk").symlink_to(disk.path("disk"))
        mount.start()
        write(mount, "disk", os.urandom(SIZE))
        disk.fail("hold")
        yield mount, disk
        disk.fail()
        if is_mounted(mount.point):
            mount.umount()


_LOOK_S = 3.0
"""More than the command takes to note a signal and to ask the mount to end its flush."""


def wait_until_flushing(mount: Mount) -> None:
    while not state(mount).startswith("flushing"):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_cancels_after_the_batch(
    held: tuple[Mount, FaultyDisk], number: signal.Signals
) -> None:
    mount, disk = held
    command = thincow_command("flush", "--json", mount.point)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=thincow_environment()
    ) as client:
        wait_until_flushing(mount)
        check_refused(flush(mount), "a flush is running already")
        busy = run_thincow("umount", mount.point)
        assert busy.returncode == 1
        assert "is busy" in busy.stderr
        client.send_signal(number)
        time.sleep(_LOOK_S)
        disk.fail()
        output, _ = client.communicate()
    assert client.returncode == 130
    result = json.loads(output)
    assert (result["status"], result["cancelled"]) == ("ready", True)
    assert result["written_bytes"] == 64 << 20
    assert result["left_bytes"] == SIZE - (64 << 20)
    assert flush(mount).returncode == 0
    assert state(mount) == "clean"


def test_second_signal_leaves_the_batch_alone(held: tuple[Mount, FaultyDisk]) -> None:
    mount, disk = held
    with subprocess.Popen(
        thincow_command("flush", mount.point), env=thincow_environment()
    ) as client:
        wait_until_flushing(mount)
        client.send_signal(signal.SIGINT)
        client.send_signal(signal.SIGTERM)
        assert client.wait() == 130
    assert state(mount).startswith("flushing")
    disk.fail()
    while state(mount).startswith("flushing"):
        pass


@pytest.mark.parametrize("way", ["attribute", "file"])
def test_mount_that_ends_finishes_the_batch(held: tuple[Mount, FaultyDisk], way: str) -> None:
    mount, disk = held
    pid = mount.pid
    with (
        subprocess.Popen(
            ["sh", "-c", "echo full > flush"], cwd=mount.point, stderr=subprocess.DEVNULL
        )
        if way == "file"
        else nullcontext()
    ):
        if way == "attribute":
            os.setxattr(mount.point, ATTRIBUTE, b"full")
        wait_until_flushing(mount)
        os.kill(pid, signal.SIGTERM)
        disk.fail()
        wait_for_end(pid)
    mount.start()
    assert mount.stats()["Device disk blocks original"] in ("0", str((64 << 20) // BLOCK))


def test_progress_is_shown_on_a_terminal(held: tuple[Mount, FaultyDisk]) -> None:
    mount, disk = held
    terminal, side = pty.openpty()
    with subprocess.Popen(
        thincow_command("flush", mount.point),
        stdout=side,
        stderr=side,
        env={**thincow_environment(), "TERM": "xterm", "COLUMNS": "100"},
    ) as client:
        os.close(side)
        shown = b""
        while b"/70.0 MiB" not in shown:
            shown += os.read(terminal, 4096)
        disk.fail()
        try:
            while data := os.read(terminal, 4096):
                shown += data
        except OSError:
            pass  # how a terminal ends
        os.close(terminal)
    assert client.returncode == 0
    text = shown.decode()
    assert "flushing" in text
    assert "written: 70.0 MiB, clean" in text
