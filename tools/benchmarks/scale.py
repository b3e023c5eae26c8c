"""`tools/bench scale`: what things cost as stores grow."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.benchmarks.clients import environment, run
from tools.benchmarks.growing import (
    BLOCK,
    HASH_TABLE_BYTES,
    REQUEST_BLOCKS,
    Growth,
    sample_blocks,
)
from tools.benchmarks.lab import Lab
from tools.benchmarks.report import number
from tools.benchmarks.subjects import peak_rss_mib, thincow

_MB = 1e6
MILLION = 1_000_000
_FRAGMENTED_BYTES = 1 << 40
_LOOK_S = 0.005
_LARGE = 100 * MILLION


@dataclass(frozen=True, slots=True)
class Stage:
    """A store of some size; `empty` is the begin of another one, made in the same minute."""

    kind: str
    blocks: int
    growth: Growth
    empty: Growth
    metadata_bytes: int
    mount_s: float
    mount_rss_mib: float
    fsck_s: float
    fsck_rss_mib: float

    @property
    def ratio(self) -> float:
        """Speed of new data at this size, relative to an empty store."""
        return self.growth.last_per_s / self.empty.first_per_s


def measure(
    lab: Lab, kind: str, sizes: Sequence[int], say: Callable[[str], None]
) -> Iterator[Stage]:
    """Let one store grow from size to size, and look at it at each; sizes in blocks."""
    if not sizes:
        return
    sizes = [-(-size // REQUEST_BLOCKS) * REQUEST_BLOCKS for size in sorted(sizes)]
    is_scattered = kind == "scattered"
    device_bytes = _FRAGMENTED_BYTES if is_scattered else max(sizes) * BLOCK
    place = _new_place(lab, device_bytes)
    first = 0
    for size in sizes:
        say(f"{kind}: {size:,} blocks")
        growth = _grow(place, first, size, is_scattered=is_scattered)
        empty = _new_place(lab, device_bytes)
        sample = sample_blocks(size - first, is_scattered=is_scattered)
        beside = _grow(empty, 0, 2 * sample, is_scattered=is_scattered)
        lab.remove(empty)
        metadata = (place / "store" / "metadata.db").stat().st_size
        mount_s, mount_rss = _mount(lab, place)
        fsck_s, fsck_rss = _fsck(place)
        yield Stage(kind, size, growth, beside, metadata, mount_s, mount_rss, fsck_s, fsck_rss)
        first = size
    lab.remove(place)


def _new_place(lab: Lab, device_bytes: int) -> Path:
    place = lab.new_directory("scale")
    (place / "upstream").mkdir()
    (place / "upstream" / "disk").touch()
    os.truncate(place / "upstream" / "disk", device_bytes)
    return place


def _grow(place: Path, first: int, end: int, *, is_scattered: bool) -> Growth:
    how = ("--scattered",) if is_scattered else ()
    module = ("-m", "tools.benchmarks.growing")
    said = run(sys.executable, *module, place, str(first), str(end), *how)
    return Growth(**json.loads(said.splitlines()[-1]))


def _mount(lab: Lab, place: Path) -> tuple[float, float]:
    point = lab.new_directory("mnt")
    begin = time.perf_counter()
    places = ("--upstream", place / "upstream", "--data-dir", place / "store")
    thincow("mount", "--hash-table-size", str(HASH_TABLE_BYTES), *places, point)
    try:
        took = time.perf_counter() - begin
        return took, peak_rss_mib(int((point / "debug" / "pid.txt").read_text()))
    finally:
        thincow("umount", point)


def _fsck(place: Path) -> tuple[float, float]:
    command = [sys.executable, "-m", "thincow", "fsck", "--data-dir", str(place / "store")]
    peak = 0.0
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as process:
        # Not what `wait4` tells: that includes the memory of the process that started this one.
        while process.poll() is None:
            peak = max(peak, peak_rss_mib(process.pid))
            time.sleep(_LOOK_S)
    assert process.returncode == 0, "the store is damaged"
    return time.perf_counter() - begin, peak


def verdicts(stage: Stage) -> list[str]:
    """Hold a store of 100 million blocks against its targets."""
    if stage.kind != "sequential" or stage.blocks < _LARGE:
        return []
    return [
        f"speed of new data {number(stage.ratio)} of an empty store's, target 0.3, stretch 0.6: "
        f"{_verdict(-stage.ratio, -0.3, -0.6)}",
        f"memory {number(stage.growth.peak_rss_mib)} MiB, target 512, stretch 256: "
        f"{_verdict(stage.growth.peak_rss_mib, 512, 256)}",
        f"mount {number(stage.mount_s)} s, target 2, stretch 0.7: "
        f"{_verdict(stage.mount_s, 2, 0.7)}",
    ]


def _verdict(value: float, target: float, stretch: float) -> str:
    return "stretch" if value <= stretch else "met" if value <= target else "missed"


_COLUMNS: dict[str, Callable[[Stage], str]] = {
    "blocks": lambda stage: f"{stage.kind} {stage.blocks / MILLION:,g} M",
    "new data MB/s": lambda stage: number(stage.growth.last_per_s * BLOCK / _MB),
    "of empty": lambda stage: number(stage.ratio),
    "memory MiB": lambda stage: number(stage.growth.peak_rss_mib),
    "metadata MiB": lambda stage: number(stage.metadata_bytes / (1 << 20)),
    "bytes a block": lambda stage: number(stage.metadata_bytes / stage.blocks),
    "commit s": lambda stage: number(stage.growth.commit_median_s),
    "worst": lambda stage: number(stage.growth.commit_worst_s),
    "mount s": lambda stage: number(stage.mount_s),
    "its MiB": lambda stage: number(stage.mount_rss_mib),
    "fsck s": lambda stage: number(stage.fsck_s),
    "fsck MiB": lambda stage: number(stage.fsck_rss_mib),
}


def print_table(stages: Sequence[Stage]) -> None:
    """Print for a terminal."""
    table = Table()
    for name in _COLUMNS:
        table.add_column(name, justify="right")
    for stage in stages:
        table.add_row(*(column(stage) for column in _COLUMNS.values()))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for stage in stages:
        for line in verdicts(stage):
            console.print(line)


def markdown(stages: Sequence[Stage]) -> str:
    """Return the table for a document."""
    rows = [tuple(_COLUMNS), ("---",) * len(_COLUMNS)]
    rows += [tuple(column(stage) for column in _COLUMNS.values()) for stage in stages]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_json(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Return everything as plain data."""
    return [{**asdict(stage), "verdicts": verdicts(stage)} for stage in stages]
