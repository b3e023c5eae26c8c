"""What `--checksum-bits 32` costs: the same work with and without."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import mean

from tools.benchmarks.clients import Job, fio, read_through
from tools.benchmarks.group import Group, Wanted
from tools.benchmarks.lab import Lab
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.subjects import Subject, mounted

MIB = 1 << 20
_BLOCK = 4096
_WITHOUT = "without"
_ONLY_ONCE = "read-first"


def _read(lab: Lab, subject: Subject) -> float:
    return read_through(subject.path, lab.sizes.working_bytes)


def _read_written(lab: Lab, subject: Subject) -> float:
    # As O_DIRECT, or the kernel would serve what was written from its cache.
    return fio(subject.path, Job("read", MIB, lab.sizes.working_bytes, direct=True)).mb_s


def _write_new(lab: Lab, subject: Subject) -> float:
    return fio(subject.path, Job("write", MIB, lab.sizes.working_bytes, sync_at_end=True)).mb_s


def _random(kind: str) -> Callable[[Lab, Subject], float]:
    def work(lab: Lab, subject: Subject) -> float:
        span, seconds = lab.sizes.working_bytes, lab.sizes.short_s
        return fio(subject.path, Job(kind, _BLOCK, span, direct=True, seconds=seconds)).per_s

    return work


_WORK: dict[str, tuple[str, str, Callable[[Lab, Subject], float]]] = {
    "read-first": ("read of untouched upstream, first time", "MB/s", _read),
    "write-new": ("write of new data, synced", "MB/s", _write_new),
    "read-back": ("read of that, O_DIRECT", "MB/s", _read_written),
    "random-read": ("4 KiB random read, O_DIRECT", "/s", _random("randread")),
    "random-write": ("4 KiB random write, O_DIRECT", "/s", _random("randwrite")),
}


def _key(name: str) -> str:
    return f"checksums-{name}"


def _measure(lab: Lab, wanted: Wanted) -> Samples:
    samples: Samples = {}
    lab.warm(lab.upstream / "disk")
    with ExitStack() as stack:
        without, with_sums = (
            stack.enter_context(mounted(lab, "--checksum-bits", bits)) for bits in ("0", "32")
        )
        for name, (_title, _unit, work) in _WORK.items():
            if _key(name) in wanted:
                # There and back, or whatever changes on the way would count for one of them.
                turns = [without, with_sums, with_sums, without]
                if name == _ONLY_ONCE:
                    turns = turns[:2]
                figures = defaultdict[Path, list[float]](list)
                for subject in turns:
                    lab.settle()
                    figures[subject.path].append(work(lab, subject))
                beside = mean(figures[without.path])
                samples[_key(name)] = Sample(mean(figures[with_sums.path]), {_WITHOUT: beside})
    return samples


GROUPS = (
    Group(
        tuple(
            Line(_key(name), f"with checksums: {title}", unit, _WITHOUT, 0.85)
            for name, (title, unit, _work) in _WORK.items()
        ),
        _measure,
    ),
)
