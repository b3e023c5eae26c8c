"""A real mount against a plain model: random requests, syncs, restarts and kills.

Tiny windows and failing system calls are for the engine's test; this one has the kernel's page
cache, requests split by the kernel, and real processes that end.

    tools/test tests/property -k mount --operations 1000000 --timeout 0
"""

import errno
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.exerciser import Exerciser
from tests.support.mounting import Mount
from tests.support.random_operations import Mix, make_contents

BLOCK_SIZES = tuple(512 << shift for shift in range(12))
NAMES = ("a", "b", "c")


@dataclass
class MountTarget:
    """A mount as the exerciser drives it; options change from one mounting to the next."""

    mount: Mount
    random: random.Random
    block_size: int
    happened: dict[str, int] = field(default_factory=dict)
    _fds: list[int] = field(default_factory=list)

    def start(self) -> None:
        choose = self.random.choice
        options = ["--block-size", str(self.block_size)]
        options += ["--hash-table-size", choose(("256", "4K", "1M"))]
        options += choose(([], ["-o", "direct_io"]))
        options += choose(([], ["--retroactive"]))
        options += choose(([], [], ["--checksum-bits", choose(("8", "32", "64"))]))
        self.mount.start(*options)
        self._fds = [os.open(self.mount.devs / name, os.O_RDWR) for name in NAMES]

    def read(self, device: int, offset: int, length: int) -> bytes:
        if self.random.random() < 0.3:
            os.posix_fadvise(self._fds[device], 0, 0, os.POSIX_FADV_DONTNEED)
        return os.pread(self._fds[device], length, offset)

    def write(self, device: int, offset: int, data: bytes) -> int:
        return os.pwrite(self._fds[device], data, offset)

    def truncate(self, device: int, size: int) -> None:
        os.ftruncate(self._fds[device], size)

    def size(self, device: int) -> int:
        return os.fstat(self._fds[device]).st_size

    def sync(self) -> None:
        # One file stands for all: a commit holds the changes of every device.
        os.fsync(self.random.choice(self._fds))

    def restart(self) -> None:
        self._note("restarts")
        self.stop()
        done = self.mount.fsck()
        assert done.returncode == 0, done.stdout
        self.start()

    def kill(self) -> None:
        self._note("kills")
        self.mount.kill()
        for fd in self._fds:
            try:
                os.close(fd)
            except OSError as error:
                assert error.errno == errno.ENOTCONN  # noqa: PT017 - closed all the same
        self.start()

    def stop(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        self.mount.umount()

    def _note(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1


@pytest.mark.parametrize("number", range(len(BLOCK_SIZES)))
def test_mount_does_what_the_model_does(
    mount: Mount, tmp_path: Path, number: int, operations: int, first_seed: int
) -> None:
    seed = first_seed + number
    block_size = BLOCK_SIZES[seed % len(BLOCK_SIZES)]
    contents = make_contents(seed, block_size, blocks=40 if block_size <= 65536 else 6)
    for name, content in zip(NAMES, contents, strict=True):
        mount.add(name, content)
    choose = random.Random(seed)
    mount.metadata = choose.choice((None, tmp_path / "metadata"))
    target = MountTarget(mount, choose, block_size)
    target.start()
    print(f"blocks of {block_size} bytes")
    mix = Mix(restart=0.3, kill=0.3)
    exerciser = Exerciser(seed, contents, block_size, target, mix, splits_writes=True)
    exerciser.run(-(-operations // len(BLOCK_SIZES)))
    target.restart()
    exerciser.compare_all()
    target.stop()
    print(target.happened)
    for name, content in zip(NAMES, contents, strict=True):
        assert (mount.upstream / name).read_bytes() == content
