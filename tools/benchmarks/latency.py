"""How long single requests take while a large commit goes on.

The commit is asked for by syncing the directory of devices: while a file is being synced, the
kernel itself lets nobody write to that file.
"""

import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tools.benchmarks.clients import dd, environment
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.subjects import Subject, mounted

_BLOCK = 4096
_MS = 1000
_P99 = Line(
    "commit-latency-p99",
    "4 KiB reads and writes while 250 MiB are committed: 99 of 100 within",
    "ms",
    target=5,
    stretch=1,
    lower_is_better=True,
)
_WORST = Line("commit-latency-worst", "the same: the worst", "ms", lower_is_better=True)
_IDLE = Line("idle-latency-p99", "the same without a commit", "ms", lower_is_better=True)


def _measure(lab: Lab, _wanted: Wanted) -> Samples:
    output = lab.new_directory("latency") / "samples.npy"
    epoch = lab.sizes.epoch_bytes
    lab.warm(lab.upstream / "disk", lab.source)
    with mounted(lab) as subject:
        # What is not the client's: new data in the last part of the device.
        seek = lab.sizes.device_bytes - epoch
        with _Client(subject, lab.sizes.working_bytes, output):
            time.sleep(lab.sizes.short_s / 5)
            idle_end = time.monotonic()
            dd(lab.source, subject.path, min(epoch, lab.sizes.working_bytes), seek=seek)
            begin = time.monotonic()
            _sync_directory(subject.path.parent)
            end = time.monotonic()
    starts, took = np.load(output)
    during = took[(starts + took >= begin) & (starts <= end)] * _MS
    idle = took[starts <= idle_end] * _MS
    return {
        _P99.key: Sample(float(np.percentile(during, 99)), {"commit took ms": (end - begin) * _MS}),
        _WORST.key: Sample(float(during.max()), {"requests": float(len(during))}),
        _IDLE.key: Sample(float(np.percentile(idle, 99)), {"worst": float(idle.max())}),
    }


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Client:
    """Runs `work` in a process of its own until the block ends."""

    def __init__(self, subject: Subject, span_bytes: int, output: Path) -> None:
        self._command = [sys.executable, "-m", "tools.benchmarks.latency"]
        self._command += [str(subject.path), str(span_bytes), str(output)]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


def work(path: Path, span_bytes: int, output: Path) -> None:
    """Read and write in turn until the standard input is closed; save begins and durations."""
    os.set_blocking(sys.stdin.fileno(), False)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, _BLOCK)
    buffers = [buffer]
    starts: list[float] = []
    took: list[float] = []
    print("ready", flush=True)
    while sys.stdin.buffer.read(1) is None:
        for _ in range(50):
            buffer[:8] = random.randbytes(8)
            for call in (os.preadv, os.pwritev):
                offset = random.randrange(span_bytes // _BLOCK) * _BLOCK
                begin = time.monotonic()
                call(fd, buffers, offset)
                starts.append(begin)
                took.append(time.monotonic() - begin)
    np.save(output, np.array([starts, took]))


GROUPS = (Group((_P99, _WORST, _IDLE), _measure),)

if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
