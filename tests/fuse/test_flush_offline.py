"""Flushing a store that is not mounted gives what a flush through the mount gives."""

import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.flushing import offline_arguments
from tests.support.mounting import Mount, run_thincow, thincow_command, thincow_environment

BLOCK = 4096
Contents = dict[str, bytes]


def write(mount: Mount, name: str, data: bytes, offset: int = 0) -> None:
    fd = os.open(mount.devs / name, os.O_WRONLY)
    try:
        assert os.pwrite(fd, data, offset) == len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def flush_offline(mount: Mount, *options: str) -> subprocess.CompletedProcess[str]:
    return run_thincow("flush", *offline_arguments(mount), *options)


def new_data(mount: Mount, _old: Contents) -> None:
    write(mount, "a", os.urandom(5 * BLOCK), 3 * BLOCK)
    write(mount, "b", bytes(2 * BLOCK), 7 * BLOCK)
    write(mount, "c", b"end", 16 * BLOCK + 50)


def swapped(mount: Mount, old: Contents) -> None:
    write(mount, "a", old["b"])
    write(mount, "b", old["a"])


def shifted(mount: Mount, old: Contents) -> None:
    write(mount, "a", old["a"][BLOCK:] + old["a"][:BLOCK])


def across(mount: Mount, old: Contents) -> None:
    write(mount, "a", old["c"][: 16 * BLOCK])
    write(mount, "b", old["a"][: 8 * BLOCK] * 2)
    write(mount, "c", old["b"][::-1][: 16 * BLOCK])


@pytest.mark.parametrize("change", [new_data, swapped, shifted, across])
@pytest.mark.parametrize("options", [(), ("--hash-table-size", "256")], ids=["plain", "few"])
def test_result_is_that_of_a_flush_through_the_mount(
    mount: Mount,
    change: Callable[[Mount, Contents], None],
    options: tuple[str, ...],
) -> None:
    old = {name: os.urandom(16 * BLOCK) for name in "ab"} | {"c": os.urandom(16 * BLOCK + 100)}
    for name, content in old.items():
        mount.add(name, content)
    mount.start(*options)
    for name in old:
        (mount.devs / name).read_bytes()
    change(mount, old)
    shown = {name: (mount.devs / name).read_bytes() for name in old}
    plan = json.loads(run_thincow("flush", "--dry-run", "--json", mount.point).stdout)
    mount.umount()
    before = {path.name: path.read_bytes() for path in mount.data.iterdir()}
    offline = flush_offline(mount, "--dry-run", "--json")
    assert offline.returncode == 0, offline.stderr
    for key in ("cycles", "cycle_bytes", "space_bytes"):
        assert json.loads(offline.stdout)[key] == plan[key]
    assert {path.name: path.read_bytes() for path in mount.data.iterdir()} == before
    done = flush_offline(mount, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "clean"
    assert {name: (mount.upstream / name).read_bytes() for name in old} == shown
    assert mount.cowdata.stat().st_size == 0
    mount.start()
    assert {name: (mount.devs / name).read_bytes() for name in old} == shown
    assert (mount.point / "flush").read_text() == "clean\n"


def test_killed_flush_goes_on_in_either_way(mount: Mount) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    blocks = 2048
    shown = {name: os.urandom(blocks * BLOCK) for name in "ab"}
    for name, content in shown.items():
        mount.add(name, content)
    for number in range(6):
        mount.start()
        for name in "ab":
            (mount.devs / name).read_bytes()
        shown = {"a": shown["b"], "b": shown["a"][BLOCK:] + os.urandom(BLOCK)}
        for name, content in shown.items():
            write(mount, name, content)
        mount.umount()
        with subprocess.Popen(
            thincow_command("flush", *offline_arguments(mount)),
            env=thincow_environment(),
            stdout=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None and not (mount.data / "metadata.db-wal").exists():
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
        assert mount.fsck().returncode == 0
        if number % 2:
            done = flush_offline(mount)
            assert done.returncode == 0, done.stderr
        else:
            mount.start()
            assert {name: (mount.devs / name).read_bytes() for name in "ab"} == shown
            assert run_thincow("flush", mount.point).returncode == 0
            mount.umount()
        for name in "ab":
            assert (mount.upstream / name).read_bytes() == shown[name]


def test_parts_can_be_flushed(mount: Mount) -> None:
    old = {name: os.urandom(16 * BLOCK) for name in "ab"}
    for name, content in old.items():
        mount.add(name, content)
    mount.start()
    new = {name: os.urandom(16 * BLOCK) for name in "ab"}
    for name, content in new.items():
        write(mount, name, content)
    mount.umount()
    assert flush_offline(mount, "--device", "b").returncode == 0
    assert (mount.upstream / "a").read_bytes() == old["a"]
    assert (mount.upstream / "b").read_bytes() == new["b"]
    done = flush_offline(mount, "--blocks", "4", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["left_bytes"] == 12 * BLOCK
    assert flush_offline(mount).stdout == "written: 48.0 KiB, clean\n"


def test_wrong_uses_are_refused_in_one_line(
    mount: Mount, new_mount: NewMount, tmp_path: Path
) -> None:
    mount.add("disk", os.urandom(4 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    used = flush_offline(mount)
    assert used.returncode == 1
    assert "in use by process" in used.stderr
    mount.umount()
    assert run_thincow("flush", *offline_arguments(mount), mount.point).returncode == 2
    assert run_thincow("flush", "--data-dir", mount.data).returncode == 2
    assert run_thincow("flush", "--offline", "--data-dir", mount.data).returncode == 2
    for words in ((), ("--dry-run",)):
        unknown = flush_offline(mount, "--device", "nope", *words)
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert unknown.stderr.endswith("has no device nope\n")
    shutil.copytree(mount.upstream, tmp_path / "others")
    (tmp_path / "others/disk").write_bytes(os.urandom(4 * BLOCK))
    options = ("--offline", "--data-dir", mount.data, "--upstream", tmp_path / "others")
    changed = run_thincow("flush", *options)
    assert changed.returncode == 1
    assert len(changed.stderr.splitlines()) == 1
    none = run_thincow("flush", "--offline", "--data-dir", tmp_path, "--upstream", mount.upstream)
    assert none.returncode == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["others", "store"]
