"""What a store takes: space for metadata, time to mount, memory of the process."""

import os
import sys
import time
from pathlib import Path

from tools.benchmarks.clients import dd, run
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab, Usage
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.subjects import mounted, thincow

_BLOCK_SIZES = (4096, 512)
_METADATA = {
    4096: Line(
        "metadata-4096",
        "metadata a block, sequential new data, 4096",
        "bytes",
        target=32,
        stretch=22,
        lower_is_better=True,
    ),
    512: Line(
        "metadata-512", "metadata a block, sequential new data, 512", "bytes", lower_is_better=True
    ),
}
_MOUNT = Line(
    "mount",
    "mount of a store of 1 GiB, from the command to usable",
    "s",
    target=0.7,
    stretch=0.4,
    lower_is_better=True,
)
_FIRST_BYTE = Line(
    "first-byte", "the same, from the command to the first byte read", "s", lower_is_better=True
)
_OVERLAY = Line(
    "overlay",
    "new overlay of a file of 2 GiB, from the command to usable",
    "s",
    target=1.0,
    stretch=0.4,
    lower_is_better=True,
)
_MEMORY = Line(
    "memory",
    "most memory that any mount with default options took in this run",
    "MiB",
    target=250,
    stretch=150,
    lower_is_better=True,
)


def _measure_stores(lab: Lab, wanted: Wanted) -> Samples:
    samples: Samples = {}
    for block_size in _BLOCK_SIZES:
        line = _METADATA[block_size]
        is_timed = block_size == 4096 and {_MOUNT.key, _FIRST_BYTE.key} & set(wanted)
        if line.key not in wanted and not is_timed:
            continue
        store = lab.new_directory("store")
        lab.warm(lab.source)
        with mounted(lab, block_size=block_size, store=store) as subject:
            dd(lab.source, subject.path, lab.sizes.working_bytes, sync="fsync")
        blocks = lab.sizes.working_bytes // block_size
        samples[line.key] = Sample((store / "metadata.db").stat().st_size / blocks)
        if is_timed:
            samples |= _time_mount(lab, store)
        lab.remove(store)
    return samples


def _time_mount(lab: Lab, store: Path) -> Samples:
    point = lab.new_directory("mnt")
    beside = _time_program()
    begin = time.perf_counter()
    thincow("mount", "--upstream", lab.upstream, "--data-dir", store, point)
    usable_s = time.perf_counter() - begin
    try:
        with (point / "devs" / "disk").open("rb", buffering=0) as file:
            assert len(os.pread(file.fileno(), 4096, 0)) == 4096
        first_byte_s = time.perf_counter() - begin
    finally:
        thincow("umount", point)
    return {_MOUNT.key: Sample(usable_s, beside), _FIRST_BYTE.key: Sample(first_byte_s, beside)}


def _measure_overlay(lab: Lab, _wanted: Wanted) -> Samples:
    place = lab.new_directory("overlay")
    virtual = place / "virtual"
    beside = _time_program()
    begin = time.perf_counter()
    thincow("overlay", lab.upstream / "disk", virtual)
    usable_s = time.perf_counter() - begin
    thincow("umount", "--discard", virtual)
    lab.remove(place)
    return {_OVERLAY.key: Sample(usable_s, beside)}


def _time_program() -> dict[str, float]:
    begin = time.perf_counter()
    run(sys.executable, "-m", "thincow", "--version")
    return {"the program alone": time.perf_counter() - begin}


def _measure_memory(lab: Lab, _wanted: Wanted) -> Samples:
    """Look at all mounts before; without any, at one that does the usual work."""
    if not _default_mounts(lab):
        with mounted(lab) as subject:
            for seek in (0, 0, lab.sizes.device_bytes - lab.sizes.working_bytes):
                dd(lab.source, subject.path, lab.sizes.working_bytes, seek=seek, sync="fsync")
    others = [usage.peak_rss_mib for usage in lab.usages if usage.block_size == 512]
    beside = {"512": max(others)} if others else {}
    return {_MEMORY.key: Sample(max(usage.peak_rss_mib for usage in _default_mounts(lab)), beside)}


def _default_mounts(lab: Lab) -> list[Usage]:
    return [usage for usage in lab.usages if usage.is_default and usage.block_size == 4096]


GROUPS = (
    Group((*_METADATA.values(), _MOUNT, _FIRST_BYTE), _measure_stores),
    Group((_OVERLAY,), _measure_overlay),
)
LAST_GROUPS = (Group((_MEMORY,), _measure_memory),)
