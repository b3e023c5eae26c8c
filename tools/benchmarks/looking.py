"""Looking into stores: a list of many changes, and how much speed a client keeps beside a check."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.benchmarks.clients import Job, dd, environment, fio
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.subjects import mounted, peak_rss_mib, thincow

_BLOCK = 4096
_TIB = 1 << 40
_LOOK_AGAIN_S = 0.02
_DIFF = Line(
    "diff-map",
    "diff of 1 TiB with a million changed ranges, by the map",
    "s",
    target=10,
    stretch=5,
    lower_is_better=True,
)
_COMPARED = Line(
    "diff", "the same, contents compared", "s", target=60, stretch=20, lower_is_better=True
)
_MEMORY = Line("diff-memory", "most memory that they took", "MiB", target=150, lower_is_better=True)
_BESIDE_CHECK = Line(
    "write-beside-check",
    "4 KiB random writes beside an online deep check",
    "/s",
    baseline="alone",
    target=0.5,
    stretch=0.8,
)


def _measure_diff(lab: Lab, wanted: Wanted) -> Samples:
    upstream, store = lab.new_directory("large"), lab.new_directory("store")
    (upstream / "disk").touch()
    os.truncate(upstream / "disk", _TIB)
    thincow("mount", "--upstream", upstream, "--data-dir", store, "--no-mount")
    _change(store, lab.sizes.scattered_blocks)
    samples: Samples = {}
    peak_mib = 0.0
    for line, options in ((_DIFF, ("--map-only",)), (_COMPARED, ("--upstream", str(upstream)))):
        if line.key in wanted or _MEMORY.key in wanted:
            took_s, memory_mib = _time_diff(store, *options)
            samples[line.key] = Sample(took_s)
            peak_mib = max(peak_mib, memory_mib)
    samples[_MEMORY.key] = Sample(peak_mib)
    lab.remove(upstream, store)
    return samples


def _change(store: Path, ranges: int) -> None:
    """Spread single blocks of new data, holes of `cowdata`, over the device."""
    step = _TIB // _BLOCK // ranges
    rows = ((_TIB + number * step, 1, 1, number) for number in range(ranges))
    counts = ((number, 1, 1) for number in range(ranges))
    db = sqlite3.connect(store / "metadata.db", isolation_level=None)
    db.execute("BEGIN")
    db.executemany("INSERT INTO extents VALUES (?, ?, ?, ?)", rows)
    db.executemany("INSERT INTO cow VALUES (?, ?, ?)", counts)
    db.execute("COMMIT")
    db.close()
    os.truncate(store / "cowdata", ranges * _BLOCK)


def _time_diff(store: Path, *options: str) -> tuple[float, float]:
    """Return the seconds and the MiB that a list takes."""
    command = [sys.executable, "-m", "thincow", "diff", "--data-dir", str(store), *options]
    begin = time.perf_counter()
    peak_mib = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as process:
        while process.poll() is None:
            peak_mib = max(peak_mib, peak_rss_mib(process.pid))
            time.sleep(_LOOK_AGAIN_S)
    assert process.returncode == 0
    return time.perf_counter() - begin, peak_mib


def _measure_check(lab: Lab, _wanted: Wanted) -> Samples:
    sizes = lab.sizes
    job = Job(
        "randwrite", _BLOCK, sizes.working_bytes, seconds=sizes.short_s, warm_up_s=sizes.warm_up_s
    )
    with mounted(lab) as subject:
        dd(lab.source, subject.path, sizes.working_bytes, sync="fsync")
        alone = fio(subject.path, job).per_s
        with _checking(subject.path.parents[1]):
            beside = fio(subject.path, job).per_s
    return {_BESIDE_CHECK.key: Sample(beside, {"alone": alone})}


@contextmanager
def _checking(point: Path) -> Iterator[None]:
    """Let a check run, and begin again when it is done."""
    check = '"$0" -m thincow fsck --online "$1" --deep'
    with subprocess.Popen(
        ["sh", "-c", f"while {check}; do :; done", sys.executable, str(point)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    ) as loop:
        try:
            yield
        finally:
            os.killpg(loop.pid, 9)


GROUPS = (
    Group((_DIFF, _COMPARED, _MEMORY), _measure_diff),
    Group((_BESIDE_CHECK,), _measure_check),
)
