"""What happens while a flush copies what stands in its way, and when it cannot."""

import errno
import random
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore, letters
from tests.support.loop_devices import loop_device
from thincow.engine import flush
from thincow.engine.device import Device
from thincow.engine.flush import Flush
from thincow.engine.flush_copy import Copies, copy_needed
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_selection import Selection
from thincow.engine.flush_steps import Pause, Step
from thincow.engine.flush_write import PieceRead
from thincow.errors import FlushError, StoreFailedError, ThincowError
from thincow.store.disk import Disk

BLOCKS = 32


def shift_by_one(store: EngineStore) -> tuple[list[bytes], list[bytes]]:
    """Shift a device by a block, the last block first; return its old and new contents."""
    choose = random.Random(1)
    old = [choose.randbytes(BLOCK) for _ in range(BLOCKS)]
    store.add("a", b"".join(old))
    store.open()
    store.read("a")
    new = [choose.randbytes(BLOCK), *old[:-1]]
    for number in reversed(range(BLOCKS)):
        store.write("a", number * BLOCK, new[number])
    return old, new


@pytest.mark.parametrize("fails", [False, True], ids=["no space", "unreadable"])
def test_client_may_restore_a_block_while_nothing_can_be_copied(
    new_store: NewStore, fails: bool
) -> None:
    store = new_store(max_cow_blocks=None if fails else 1)
    old, new = shift_by_one(store)
    free = BLOCKS - 2  # what the flush is about to write: nobody shows its old content
    has_written = False
    steps = store.engine.flush.begin(FlushOrder()).steps()
    try:
        for step in steps:
            if step is Pause.COMMIT:
                store.engine.commit()
            elif isinstance(step, PieceRead):
                step.run()
                step.error = "Input/output error" if fails else None
                if not has_written:
                    store.write("a", free * BLOCK, old[free])
                    new[free] = old[free]
                    has_written = True
            elif not isinstance(step, Pause):
                step.run()
    except ThincowError:
        assert fails
    finally:
        steps.close()
        store.engine.flush.end(None)
    assert has_written
    assert store.read("a") == b"".join(new)


@pytest.mark.parametrize("fails", [False, True], ids=["no space", "unreadable"])
def test_selection_that_is_kept_when_nothing_was_copied_is_noticed(
    new_store: NewStore, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """The test before would find the bug that it is there for."""
    select, settle = Flush._select, Flush._settle
    chosen: list[Selection] = []
    is_in_vain = False

    def copy(*arguments: Any) -> Generator[Step, None, Copies]:
        nonlocal is_in_vain
        copies = yield from copy_needed(*arguments)
        is_in_vain = not copies.blocks
        return copies

    def keep(self: Flush, device: Device, position: int) -> Selection:
        nonlocal is_in_vain
        if not is_in_vain:
            chosen.append(select(self, device, position))
        is_in_vain = False
        return chosen[-1]

    def settle_if_copied(self: Flush) -> Generator[Step, None, None]:
        if not is_in_vain:
            yield from settle(self)

    monkeypatch.setattr(flush, "copy_needed", copy)
    monkeypatch.setattr(Flush, "_select", keep)
    monkeypatch.setattr(Flush, "_settle", settle_if_copied)
    with pytest.raises(AssertionError):
        test_client_may_restore_a_block_while_nothing_can_be_copied(new_store, fails)


class FullDisk(Disk):
    """`cowdata` takes no more writes while `is_full`."""

    def __init__(self) -> None:
        self.is_full = False
        self._paths: dict[int, Path] = {}

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        fd = super().open(path, flags, mode)
        self._paths[fd] = path
        return fd

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        if self.is_full and self._paths[fd].name == "cowdata":
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(fd, data, offset)


def test_copy_that_cannot_be_written_takes_no_blocks(new_store: NewStore) -> None:
    disk = FullDisk()
    store = new_store(disk=disk, max_cow_blocks=64)
    store.add("a", "abcdefgh")
    store.add("b", "ijklmnop")
    store.open()
    store.read("a")
    store.read("b")
    store.write_blocks("a", 0, "ijklmnop")
    store.write_blocks("b", 0, "abcdefgh")
    disk.is_full = True
    for _ in range(8):
        with pytest.raises((FlushError, StoreFailedError)):
            store.engine.flush.run(FlushOrder())
    disk.is_full = False
    store.engine.flush.run(FlushOrder())
    assert store.engine.status() == "clean"
    assert store.read_blocks("a") == "ijklmnop"


def test_file_that_was_replaced_is_not_written(new_store: NewStore, tmp_path: Path) -> None:
    store = new_store()
    path = store.add("a", "abcdefgh")
    store.open()
    store.write_blocks("a", 2, "xyz")
    shutil.copy2(path, tmp_path / "copy")  # of the same content and modification time
    (tmp_path / "copy").rename(path)
    before = path.read_bytes()
    with pytest.raises(FlushError, match="replaced"):
        store.engine.flush.run(FlushOrder())
    assert path.read_bytes() == before
    assert store.read_blocks("a") == "abxyzfgh"


class SwappedDisk(Disk):
    """Block devices that hold another disk once that is plugged in."""

    plugged = 0

    def medium(self, fd: int) -> int | None:
        return (super().medium(fd) or 0) + self.plugged


@pytest.mark.needs_root
def test_disk_plugged_in_under_the_same_number_is_not_written(
    new_store: NewStore, tmp_path: Path
) -> None:
    disk = SwappedDisk()
    store = new_store(disk=disk)
    (tmp_path / "image").write_bytes(letters("abcdefgh"))
    with loop_device(tmp_path / "image") as loop:
        (store.upstream_dir / "a").symlink_to(loop)
        store.open()
        store.write_blocks("a", 2, "xyz")
        disk.plugged = 1
        with pytest.raises(FlushError, match="upstream device a was replaced since"):
            store.engine.flush.run(FlushOrder())
        assert (tmp_path / "image").read_bytes() == letters("abcdefgh")
        disk.plugged = 0
        store.engine.flush.run(FlushOrder())
        assert (tmp_path / "image").read_bytes() == letters("abxyzfgh")
        store.close()
