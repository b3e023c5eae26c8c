"""What is said, and kept back, when space runs low."""

import errno
from pathlib import Path

import pytest

from thincow.engine import space_watch
from thincow.engine.options import Tuning
from thincow.engine.space_watch import SpaceWatch
from thincow.store.disk import Disk
from thincow.store.space_reserve import SpaceReserve

MIB = 1 << 20


class SmallDisk(Disk):
    """Directories of 64 MiB each, with as much left as a test says."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    def filesystem_bytes(self, path: Path) -> tuple[int, int]:
        return 64 * MIB, self.left.get(path.name, 64 * MIB)

    def claim(self, fd: int, offset: int, length: int) -> None:
        if min(self.left.values(), default=64 * MIB) < length:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().claim(fd, offset, length)


@pytest.fixture
def disk() -> SmallDisk:
    return SmallDisk()


@pytest.fixture
def watch(disk, tmp_path):
    directories = [tmp_path / "data", tmp_path / "metadata"]
    for directory in directories:
        directory.mkdir()
    return SpaceWatch(disk, directories, SpaceReserve(disk, directories[1], 8 * MIB), Tuning())


def test_reserve_is_in_proportion_to_the_filesystem(watch, tmp_path):
    assert watch.look()
    assert (tmp_path / "metadata/reserve").stat().st_size == 2 * MIB


@pytest.mark.parametrize("name", ["data", "metadata"])
def test_low_space_is_told_once_and_so_is_its_end(watch, disk, tmp_path, caplog, name):
    disk.left[name] = 5 * MIB
    for _ in range(3):
        assert watch.look()
    assert caplog.text.count("space runs low") == 1
    assert f"{tmp_path / name}: 5120 KiB are left" in caplog.text
    assert watch.keeps_commits_small == (name == "metadata")
    disk.left[name] = 9 * MIB
    watch.look()
    assert f"there is space again in {tmp_path / name}" in caplog.text
    assert not watch.keeps_commits_small


def test_no_write_is_taken_while_the_reserve_is_missing(watch, disk, tmp_path):
    disk.left["metadata"] = MIB
    assert not watch.look()
    assert not (tmp_path / "metadata/reserve").exists()
    disk.left["metadata"] = 3 * MIB
    assert watch.look()


def test_reserve_that_was_given_up_does_not_come_back(watch, tmp_path):
    watch.look()
    watch.give_up_reserve()
    assert watch.look()
    assert not (tmp_path / "metadata/reserve").exists()


def test_refused_writes_are_told_now_and_then(watch, caplog, monkeypatch):
    for _ in range(3):
        watch.note_refusal(OSError("full"))
    assert caplog.text.count("a write was refused: full") == 1
    monkeypatch.setattr(space_watch, "_TELL_AGAIN_S", 0.0)
    watch.note_refusal(OSError("full"))
    assert caplog.text.count("a write was refused: full") == 2


def test_directory_that_cannot_be_examined_stops_nothing(watch, tmp_path, caplog, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(SmallDisk, "filesystem_bytes", fail)
    assert watch.look()
    assert "space cannot be watched" in caplog.text


def test_looking_again_costs_nothing_for_a_moment_unless_space_is_low(watch, disk, monkeypatch):
    asked = []
    whole = disk.filesystem_bytes
    monkeypatch.setattr(disk, "filesystem_bytes", lambda path: asked.append(path) or whole(path))
    monkeypatch.setattr(space_watch, "_LOOK_AGAIN_S", 1000.0)
    for _ in range(3):
        assert watch.look_again()
    assert len(asked) == 2
    disk.left["metadata"] = 3 * MIB
    watch.look()
    watch.look_again()
    assert len(asked) == 6
