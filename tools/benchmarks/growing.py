"""Lets the store of `tools/bench scale` grow, in a process of its own whose memory tells something.

    python -m tools.benchmarks.growing DIRECTORY FROM_BLOCKS TO_BLOCKS [--scattered]

Prints a `Growth` as JSON. New contents are written to a device from its begin, in requests of
1 MiB; or, scattered, block by block all over the device. Commits run in a thread, as in a mount.
"""

import argparse
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from thincow.engine.commit import Commit
from thincow.engine.options import StoreOptions
from tools.benchmarks.engine_alone import EngineBench, opened
from tools.benchmarks.hollow_disk import HollowDisk
from tools.benchmarks.subjects import peak_rss_mib

BLOCK = 4096
REQUEST_BLOCKS = 256
SAMPLE_BLOCKS = 1 << 18
SCATTERED_SAMPLE_BLOCKS = 1 << 15
HASH_TABLE_BYTES = 4 << 30
_SEED = 7


@dataclass(frozen=True, slots=True)
class Growth:
    """What it took; speeds in blocks a second, of the first, all and the last blocks."""

    first_per_s: float
    all_per_s: float
    last_per_s: float
    peak_rss_mib: float
    commit_median_s: float
    commit_worst_s: float


@dataclass(slots=True)
class Writer:
    """Writes while commits run beside it, and counts the time."""

    bench: EngineBench
    commits_s: list[float] = field(default_factory=list)
    _running: Commit | None = None
    _thread: threading.Thread | None = None

    def write(self, block: int, data: bytes) -> None:
        """Write as a client of a mount does, held back when commits do not keep up."""
        engine = self.bench.engine
        if self._thread is not None and not self._thread.is_alive():
            self.settle()
        if self._thread is None and engine.commit_due:
            self._begin()
        if engine.must_wait:
            self.settle()
            self._begin()
        self.bench.write(block * BLOCK, data)

    def settle(self) -> None:
        """Wait for the running commit."""
        if self._thread is None or self._running is None:
            return
        self._thread.join()
        self.bench.engine.finish(self._running)
        self.commits_s.append(self._running.seconds)
        self._running = self._thread = None

    def _begin(self) -> None:
        self._running = self.bench.engine.freeze()
        if self._running is not None:
            self._thread = threading.Thread(target=self._running.run)
            self._thread.start()


def sequential(first: int, count: int, write: Callable[[int, bytes], None]) -> None:
    """Write new blocks one after the other; each is told from all others by its number."""
    pattern = np.random.default_rng(_SEED).integers(0, 256, (REQUEST_BLOCKS, BLOCK), np.uint8)
    numbers = np.arange(REQUEST_BLOCKS, dtype=np.int64)
    for block in range(first, first + count, REQUEST_BLOCKS):
        pattern[:, :8] = (numbers + block)[:, None].view(np.uint8)
        write(block, pattern.tobytes())


def scattered(
    first: int, count: int, device_blocks: int, write: Callable[[int, bytes], None]
) -> None:
    """Write new blocks at random places."""
    chance = random.Random(first)
    rest = random.Random(_SEED).randbytes(BLOCK - 8)
    for number in range(first, first + count):
        write(chance.randrange(device_blocks), number.to_bytes(8) + rest)


def sample_blocks(count: int, *, is_scattered: bool) -> int:
    """Return how many blocks are really written at the begin, and at the end."""
    most = SCATTERED_SAMPLE_BLOCKS if is_scattered else SAMPLE_BLOCKS
    return min(most, count // 2 // REQUEST_BLOCKS * REQUEST_BLOCKS)


def grow(directory: Path, first: int, end: int, *, is_scattered: bool) -> Growth:
    """Write the blocks from `first` to `end`; really only those at the begin and at the end."""
    disk = HollowDisk()
    store = directory / "store"
    options = StoreOptions(store, store, directory / "upstream", hash_table_bytes=HASH_TABLE_BYTES)
    sample = sample_blocks(end - first, is_scattered=is_scattered)
    with opened(options, disk) as bench:
        writer = Writer(bench)
        blocks = bench.device.size_bytes // BLOCK

        def timed(start: int, count: int, *, hollow: bool) -> float:
            disk.is_hollow = hollow
            begin = time.perf_counter()
            if is_scattered:
                scattered(start, count, blocks, writer.write)
            else:
                sequential(start, count, writer.write)
            writer.settle()
            return time.perf_counter() - begin

        first_s = timed(first, sample, hollow=False)
        middle = end - first - 2 * sample
        middle_s = timed(first + sample, middle, hollow=True)
        last_s = timed(end - sample, sample, hollow=False)
        bench.commit()
        commits = writer.commits_s or [bench.commit_s]
    return Growth(
        sample / first_s,
        (end - first) / (first_s + middle_s + last_s),
        sample / last_s,
        peak_rss_mib(os.getpid()),
        statistics.median(commits),
        max(commits),
    )


def main() -> None:
    """Parse the command line and grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("end", type=int)
    parser.add_argument("--scattered", action="store_true")
    chosen = parser.parse_args()
    growth = grow(chosen.directory, chosen.first, chosen.end, is_scattered=chosen.scattered)
    print(json.dumps(asdict(growth)))


if __name__ == "__main__":
    main()
