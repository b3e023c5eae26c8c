"""Writeback begins early: over all that was written since it began last."""

import errno
import os

from thincow.store.disk import Disk
from thincow.store.writeback import EarlyWriteback

MIB = 1 << 20


class SlowDisk(Disk):
    """Notes what it was asked to begin with."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int, int]] = []
        self.fails = False

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        self.begun.append((fd, offset, length))
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_writeback_begins_when_enough_was_written() -> None:
    disk = SlowDisk()
    writeback = EarlyWriteback(disk, 9)
    for at in range(15):
        writeback.note(at * MIB, MIB)
    assert disk.begun == []
    writeback.note(15 * MIB, MIB)
    assert disk.begun == [(9, 0, 16 * MIB)]
    writeback.note(20 * MIB, 8 * MIB)
    writeback.note(2 * MIB, 4 * MIB)
    writeback.note(40 * MIB, 4 * MIB)
    assert disk.begun[1:] == [(9, 2 * MIB, 42 * MIB)]


def test_writeback_that_cannot_begin_is_no_error() -> None:
    disk = SlowDisk()
    disk.fails = True
    writeback = EarlyWriteback(disk, 9)
    writeback.note(0, 32 * MIB)
    writeback.note(32 * MIB, 32 * MIB)
    assert len(disk.begun) == 2
