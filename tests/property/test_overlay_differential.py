"""An overlay against a plain model of a file: grown, cut, mapped, restarted, killed, committed.

tools/test tests/property -k overlay --operations 1000000 --timeout 0
"""

import mmap
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.exerciser import Exerciser
from tests.support.overlays import Overlay
from tests.support.random_operations import Mix, make_contents

BLOCK_SIZES = (512, 4096, 16384, 1 << 20)


@dataclass
class OverlayTarget:
    """An overlay as the exerciser drives it; options change from one mounting to the next."""

    overlay: Overlay
    random: random.Random
    block_size: int
    fd: int = -1
    can_map: bool = True

    def start(self) -> None:
        options = ["--block-size", str(self.block_size), "--hash-table-size", "4K"]
        options += self.random.choice(([], ["--checksum-bits", "32"], ["--retroactive"]))
        self.can_map = self.random.random() < 0.7
        options += [] if self.can_map else ["-o", "direct_io"]
        self.overlay.start(*options)
        self.fd = os.open(self.overlay.virtual, os.O_RDWR)

    def read(self, _device: int, offset: int, length: int) -> bytes:
        if self.random.random() < 0.3:
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        size = self.size(0)
        if offset < size and self.random.random() < 0.3:
            kind = mmap.MAP_SHARED if self.can_map else mmap.MAP_PRIVATE
            with mmap.mmap(self.fd, 0, flags=kind, prot=mmap.PROT_READ) as mapped:
                return mapped[offset : offset + length]
        return os.pread(self.fd, length, offset)

    def write(self, _device: int, offset: int, data: bytes) -> int:
        is_inside = data and offset + len(data) <= self.size(0)
        if is_inside and self.can_map and self.random.random() < 0.3:
            with mmap.mmap(self.fd, 0) as mapped:
                mapped[offset : offset + len(data)] = data
                mapped.flush()  # or a kill would take it back long after the model forgot
            return len(data)
        return os.pwrite(self.fd, data, offset)

    def truncate(self, _device: int, size: int) -> None:
        if size == 0 and self.random.random() < 0.5:
            os.close(os.open(self.overlay.virtual, os.O_WRONLY | os.O_TRUNC))
        else:
            os.ftruncate(self.fd, size)

    def size(self, _device: int) -> int:
        return os.fstat(self.fd).st_size

    def sync(self) -> None:
        os.fsync(self.fd)

    def restart(self) -> None:
        self.stop()
        self.overlay.check()
        self.start()

    def kill(self) -> None:
        self.overlay.kill()
        with suppress(OSError):  # closed all the same
            os.close(self.fd)
        self.start()

    def stop(self) -> None:
        os.close(self.fd)
        self.overlay.umount()


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    made = Overlay(tmp_path / "files")
    yield made
    made.close()


@pytest.mark.parametrize("number", range(len(BLOCK_SIZES)))
def test_overlay_does_what_the_model_does(
    overlay: Overlay, number: int, operations: int, first_seed: int
) -> None:
    seed = first_seed + number
    block_size = BLOCK_SIZES[seed % len(BLOCK_SIZES)]
    (content,) = make_contents(seed, block_size, devices=1, blocks=40 if number < 3 else 6)
    overlay.original.write_bytes(content)
    target = OverlayTarget(overlay, random.Random(seed), block_size)
    target.start()
    print(f"blocks of {block_size} bytes")
    mix = Mix(restart=0.1, kill=0.1, truncate=6)
    exerciser = Exerciser(seed, [content], block_size, target, mix, splits_writes=True)
    exerciser.run(-(-operations // len(BLOCK_SIZES)))
    target.restart()
    exerciser.compare_all()
    assert overlay.original.read_bytes() == content
    target.stop()
    done = overlay.commit()
    assert done.returncode == 0, done.stderr
    assert overlay.original.read_bytes() == bytes(exerciser.model.devices[0])
    assert not overlay.data.exists()
