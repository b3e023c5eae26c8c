"""Writing changes back upstream."""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tools.benchmarks.clients import Job, dd, fio
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab, write_random
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.subjects import Subject, mounted, peak_rss_mib

MIB = 1 << 20
_MB = 1e6
_BLOCK = 4096
_LARGER = 8
_PLAIN_FLUSH = "flush of as much new data"
_DD = "dd"

_FLUSH = {
    size: Line(
        f"flush-{size}", f"flush of 1 GiB of sequential changes, {size}", "MB/s", _DD, 0.6, 0.9
    )
    for size in (4096, 512)
}
_SHIFT = Line(
    "flush-shift",
    "flush of 1 GiB shifted by one block, 4096",
    "s",
    _PLAIN_FLUSH,
    target=5,
    lower_is_better=True,
)
_MEMORY = Line(
    "flush-memory",
    "most memory of a mount that flushes a million scattered 4 KiB blocks",
    "MiB",
    lower_is_better=True,
)
_SCATTERED = Line("flush-scattered", "the same: speed", "MB/s")


def _new_disk(lab: Lab, length: int, *, random: bool) -> Path:
    path = lab.new_directory("flushed") / "disk"
    if random:
        write_random(path, length)
    else:
        path.touch()
        os.truncate(path, length)
    return path


def _flush(subject: Subject) -> float:
    """Flush everything and return the seconds it took."""
    control = subject.path.parent.parent / "flush"
    begin = time.perf_counter()
    control.write_text("full\n")
    took = time.perf_counter() - begin
    status = control.read_text().strip()
    assert status == "clean", status
    return took


def _measure_sequential(block_size: int, lab: Lab, wanted: Wanted) -> Samples:
    length = lab.sizes.working_bytes
    disk = _new_disk(lab, length, random=True)
    lab.warm(lab.source, disk)
    with mounted(lab, block_size=block_size, upstream=disk.parent) as subject:
        dd(lab.source, subject.path, length, sync="fsync")
        lab.settle()
        flush_s = _flush(subject)
    lab.settle()
    beside = {_DD: dd(lab.upstream / "disk", disk, length, sync="fdatasync")}
    samples = {_FLUSH[block_size].key: Sample(length / flush_s / _MB, beside)}
    if _SHIFT.key in wanted and block_size == _BLOCK:
        samples[_SHIFT.key] = Sample(_flush_shifted(lab, disk, length), {_PLAIN_FLUSH: flush_s})
    lab.remove(disk.parent)
    return samples


def _flush_shifted(lab: Lab, disk: Path, length: int) -> float:
    with mounted(lab, upstream=disk.parent) as subject:
        dd(disk, subject.path, length - _BLOCK, seek=_BLOCK, sync="fsync")
        lab.settle()
        return _flush(subject)


@dataclass(frozen=True, slots=True)
class _Scattered:
    """What a flush of scattered blocks took; memory is the most until then."""

    before_mib: float
    peak_mib: float
    seconds: float


def _measure_scattered(lab: Lab, _wanted: Wanted) -> Samples:
    length = lab.sizes.scattered_blocks * _BLOCK
    flushed = _flush_scattered(lab, length, 2 * length)
    on_large = _flush_scattered(lab, length, _LARGER * 2 * length)
    others = {
        "before the flush": flushed.before_mib,
        f"as many blocks of a device {_LARGER} times as large": on_large.peak_mib,
        "before that": on_large.before_mib,
    }
    return {
        _MEMORY.key: Sample(flushed.peak_mib, others),
        _SCATTERED.key: Sample(length / flushed.seconds / _MB),
    }


def _flush_scattered(lab: Lab, length: int, device_bytes: int) -> _Scattered:
    disk = _new_disk(lab, device_bytes, random=False)
    with mounted(lab, upstream=disk.parent, is_usual=False) as subject:
        job = Job("randwrite", _BLOCK, device_bytes, max_bytes=length, sync_at_end=True)
        fio(subject.path, job)
        assert subject.pid is not None
        before = peak_rss_mib(subject.pid)
        lab.settle()
        flush_s = _flush(subject)
        peak = peak_rss_mib(subject.pid)
    lab.remove(disk.parent)
    return _Scattered(before, peak, flush_s)


GROUPS = (
    Group((_FLUSH[4096], _SHIFT), partial(_measure_sequential, 4096)),
    Group((_FLUSH[512],), partial(_measure_sequential, 512)),
    Group((_MEMORY, _SCATTERED), _measure_scattered),
)
