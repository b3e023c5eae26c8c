"""Requests of 4 KiB at random places, and small synced writes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tools.benchmarks.clients import Job, fio
from tools.benchmarks.commit_loop import commits_per_s
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab, Sizes
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.peers import peers
from tools.benchmarks.subjects import mounted, null, plain

_BLOCK = 4096
_COMMIT_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Work:
    """A line, and the job for a run's sizes."""

    line: Line
    job: Callable[[Sizes], Job]


def _read(sizes: Sizes, *, direct: bool) -> Job:
    # Each block once: what is in the kernel's page cache would not be asked for.
    return Job("randread", _BLOCK, sizes.working_bytes, direct=direct)


def _write(sizes: Sizes, *, depth: int) -> Job:
    return Job(
        "randwrite",
        _BLOCK,
        sizes.working_bytes,
        direct=depth > 1,
        depth=depth,
        seconds=sizes.sustained_s,
        warm_up_s=sizes.warm_up_s,
    )


def _write_synced(sizes: Sizes) -> Job:
    return Job("randwrite", _BLOCK, sizes.working_bytes, sync_each=True, seconds=sizes.short_s)


def _random(key: str, title: str, target: float, stretch: float | None) -> Line:
    return Line(f"random-{key}", f"4 KiB random {title}", "/s", "null", target, stretch)


RANDOM = (
    Work(_random("read-direct", "read, O_DIRECT", 0.8, 0.9), partial(_read, direct=True)),
    Work(
        _random("read-cached", "read, page cache, each block once", 0.8, None),
        partial(_read, direct=False),
    ),
    Work(_random("write-1", "write, queue depth 1", 0.65, 0.85), partial(_write, depth=1)),
    Work(
        _random("write-16", "write, O_DIRECT, queue depth 16", 0.65, 0.85),
        partial(_write, depth=16),
    ),
)
SYNCED = Line("write-fsync", "4 KiB random write, each with fsync", "/s", "commit", 0.3, 0.6)


def _measure_random(work: Work, lab: Lab, _wanted: Wanted) -> Samples:
    job = work.job(lab.sizes)
    lab.warm(lab.upstream / "disk")
    rates = {}
    for server in (null, *peers(lab), mounted):
        with server(lab) as subject:
            lab.settle()
            rates[subject.name] = fio(subject.path, job).per_s
    return {work.line.key: Sample(rates.pop("thincow 4096"), rates)}


def _measure_synced(lab: Lab, _wanted: Wanted) -> Samples:
    job = _write_synced(lab.sizes)
    lab.settle()
    rates = {"commit": _commits_per_s(lab)}
    for server in (plain, *peers(lab), mounted):
        with server(lab) as subject:
            lab.settle()
            rates[subject.name] = fio(subject.path, job).per_s
    return {SYNCED.key: Sample(rates.pop("thincow 4096"), rates)}


def _commits_per_s(lab: Lab) -> float:
    place = lab.new_directory("commits")
    rate = commits_per_s(place, min(lab.sizes.working_bytes, _COMMIT_FILE_BYTES), lab.sizes.short_s)
    lab.remove(place)
    return rate


GROUPS = (
    *(Group((work.line,), partial(_measure_random, work)) for work in RANDOM),
    Group((SYNCED,), _measure_synced),
)
