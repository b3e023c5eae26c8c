"""Writeback begins early: over all that was written since it began last."""

import errno
import os
import time
from pathlib import Path
from threading import Event

import pytest

from thincow.store.cow_file import COW_NAME, CowFile
from thincow.store.disk import Disk
from thincow.store.writeback import BackgroundWriteback, EarlyWriteback

MIB = 1 << 20


class SlowDisk(Disk):
    """Notes what it was asked to begin with, and does so only when it may."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.fails = False
        self.asked = Event()
        self.may_go_on = Event()
        self.may_go_on.set()

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        del fd
        self.asked.set()
        assert self.may_go_on.wait(60)
        self.begun.append((offset, length))
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def disk() -> SlowDisk:
    return SlowDisk()


def test_writeback_begins_when_enough_was_written(disk: SlowDisk) -> None:
    writeback = EarlyWriteback(disk, 9, 16 * MIB)
    for at in range(15):
        writeback.note(at * MIB, MIB)
    assert disk.begun == []
    writeback.note(15 * MIB, MIB)
    assert disk.begun == [(0, 16 * MIB)]
    writeback.note(20 * MIB, 8 * MIB)
    writeback.note(2 * MIB, 4 * MIB)
    writeback.note(40 * MIB, 4 * MIB)
    assert disk.begun[1:] == [(2 * MIB, 42 * MIB)]


def test_writeback_that_cannot_begin_is_no_error(disk: SlowDisk) -> None:
    disk.fails = True
    for writeback in (
        EarlyWriteback(disk, 9, 16 * MIB),
        background := BackgroundWriteback(disk, 9, 16 * MIB),
    ):
        writeback.note(0, 32 * MIB)
        writeback.note(32 * MIB, 32 * MIB)
    background.close()
    assert len(disk.begun) >= 3


def test_nobody_waits_for_a_slow_disk_but_its_thread(disk: SlowDisk) -> None:
    writeback = BackgroundWriteback(disk, 9, 16 * MIB)
    disk.may_go_on.clear()
    for at in range(64):
        writeback.note(at * MIB, MIB)
    assert disk.asked.wait(60)
    disk.may_go_on.set()
    while writeback._is_busy:
        time.sleep(0.001)
    writeback.note(64 * MIB, MIB)
    writeback.close()
    assert disk.begun == [(0, 16 * MIB), (16 * MIB, 49 * MIB)]


def test_contents_go_to_the_disk_before_their_commit(tmp_path: Path, disk: SlowDisk) -> None:
    (tmp_path / COW_NAME).touch()
    file = CowFile(disk, tmp_path, read_only=False)
    file.write(bytes(20 * MIB), 0)
    file.close()
    assert disk.begun == [(0, 20 * MIB)]


def test_file_that_little_was_written_to_needs_no_thread(disk: SlowDisk) -> None:
    writeback = BackgroundWriteback(disk, 9, 16 * MIB)
    writeback.note(0, MIB)
    writeback.close()
    assert disk.begun == []
