"""Where a run happens: sizes, a directory, data, caches, and what is known about the machine."""

import ctypes
import mmap
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support.loop_devices import loop_device, mounted
from tools.benchmarks.clients import read_through, run, versions

MIB = 1 << 20
GIB = 1 << 30
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")
_READY_BYTES = 4 * GIB
_MEMORY = Path("/dev/shm")
_MEMORY_BYTES = 16 * GIB


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work a run does."""

    device_bytes: int = 2 * GIB
    working_bytes: int = GIB
    epoch_bytes: int = 250 * MIB
    sustained_s: float = 30
    warm_up_s: float = 3
    short_s: float = 5
    rounds: int = 3
    scattered_blocks: int = 1_000_000


QUICK = Sizes(
    device_bytes=16 * MIB,
    working_bytes=4 * MIB,
    epoch_bytes=4 * MIB,
    sustained_s=0.3,
    warm_up_s=0.1,
    short_s=0.2,
    rounds=1,
    scattered_blocks=500,
)


@dataclass(slots=True)
class Usage:
    """What the serving process of one mount took, seen just before it was unmounted."""

    block_size: int
    is_default: bool
    peak_rss_mib: float


@dataclass(slots=True)
class Lab:
    """One run of the benchmark, below a directory of its own."""

    directory: Path
    sizes: Sizes
    is_quick: bool = False
    peers: bool = False
    usages: list[Usage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _used_names: int = 0

    def new_directory(self, name: str) -> Path:
        """Make an empty directory."""
        self._used_names += 1
        path = self.directory / f"{name}.{self._used_names}"
        path.mkdir()
        return path

    @property
    def upstream(self) -> Path:
        """The directory with the upstream of most mounts: random data, then a hole."""
        path = self.directory / "upstream"
        if not path.exists():
            path.mkdir()
            write_random(path / "disk", self.sizes.working_bytes)
            os.truncate(path / "disk", self.sizes.device_bytes)
        return path

    @property
    def source(self) -> Path:
        """A file of random data that is not upstream."""
        path = self.directory / "source"
        if not path.exists():
            write_random(path, self.sizes.working_bytes)
        return path

    def settle(self) -> None:
        """Let the disk finish what earlier work left to it, and have memory ready."""
        if not self.is_quick:
            run("sync", "-f", self.directory)
            self.ready_memory()

    def drop_caches(self) -> None:
        """Empty the page cache."""
        if self.is_quick:
            return  # it would slow down whatever else the machine does
        self.settle()
        try:
            _DROP_CACHES.write_text("3\n")
        except OSError as error:
            self.note(f"page cache not dropped ({error.strerror}): cold reads are not cold")

    def warm(self, *paths: Path) -> None:
        """Read files so that they are in the page cache."""
        for path in paths:
            read_through(path, min(path.stat().st_size, self.sizes.working_bytes))

    def note(self, text: str) -> None:
        """Remember something that readers of the figures must know."""
        if text not in self.notes:
            self.notes.append(text)

    def ready_memory(self) -> None:
        """Touch memory, so that a virtual machine's first touch of it is not measured.

        What has been free for some seconds may be back at the host, and to take it again costs 10
        us a page. Whoever works after others would pay for what these have let go.
        """
        available = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
        length = max(MIB, min(_READY_BYTES, available * 3 // 5, 2 * self.sizes.device_bytes))
        with mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            with suppress(OSError):  # a kernel without large pages takes longer
                memory.madvise(mmap.MADV_HUGEPAGE)
            start = ctypes.c_char.from_buffer(memory)
            ctypes.memset(ctypes.addressof(start), 1, length)
            del start

    def machine(self) -> dict[str, str]:
        """Tell on what the figures were reached."""
        return {
            "kernel": platform.release(),
            "processors": str(os.cpu_count()),
            "memory": f"{os.sysconf('SC_PHYS_PAGES') * mmap.PAGESIZE / GIB:.0f} GiB",
            "filesystem": run("stat", "-f", "-c", "%T", self.directory).strip(),
            "python": platform.python_version(),
            "load before": f"{os.getloadavg()[0]:.1f}",
            **versions(),
        }

    def remove(self, *paths: Path) -> None:
        """Remove directories that a line made."""
        for path in paths:
            shutil.rmtree(path)


def write_random(path: Path, length: int) -> None:
    """Write random bytes to a new file and sync them."""
    chance = np.random.default_rng()
    with path.open("wb") as file:
        for start in range(0, length, MIB):
            file.write(chance.bytes(min(MIB, length - start)))
        os.fsync(file.fileno())


@contextmanager
def memory_filesystem() -> Iterator[Path]:
    """Mount an ext4 that lies in memory: no disk, but what programs expect of a filesystem.

    A plain filesystem in memory cannot tell what is in its page cache, and everything is.
    """
    with tempfile.TemporaryDirectory(prefix="thincow-bench.", dir=_MEMORY) as name:
        image, point = Path(name, "image"), Path(name, "fs")
        image.touch()
        os.truncate(image, _MEMORY_BYTES)
        run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0", image)
        with loop_device(image, "--direct-io=off") as loop, mounted(loop, point, "-o", "discard"):
            yield point
