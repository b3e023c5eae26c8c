"""Sequential work on a working set of 1 GiB: every step on all subjects, one beside the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from tools.benchmarks.clients import Job, dd, fio, read_through
from tools.benchmarks.group import Group, Wanted, perfect
from tools.benchmarks.lab import GIB, Lab
from tools.benchmarks.line import Line, Sample, Samples
from tools.benchmarks.peers import peers
from tools.benchmarks.subjects import Subject, mounted, null, plain

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work; `prepare` comes before it on every subject and is not measured."""

    key: str
    title: str
    work: Callable[[Lab, Subject], float]
    prepare: Callable[[Lab, Subject], object] | None = None


def _read(lab: Lab, subject: Subject) -> float:
    return read_through(subject.path, lab.sizes.working_bytes)


def _read_untouched(lab: Lab, subject: Subject) -> float:
    path = lab.upstream / "disk" if subject.name == "plain" else subject.path
    return read_through(path, lab.sizes.working_bytes)


def _write_new(lab: Lab, subject: Subject) -> float:
    return fio(subject.path, Job("write", MIB, lab.sizes.working_bytes, sync_at_end=True)).mb_s


def _write_source(lab: Lab, subject: Subject, *, elsewhere: bool = False) -> float:
    length = lab.sizes.working_bytes
    seek = lab.sizes.device_bytes - length if elsewhere else 0
    return dd(lab.source, subject.path, length, seek=seek, sync="fsync")


def _warm_upstream(lab: Lab, _subject: Subject) -> None:
    lab.warm(lab.upstream / "disk")


def _drop_caches(lab: Lab, _subject: Subject) -> None:
    lab.drop_caches()


def _warm_source(lab: Lab, _subject: Subject) -> None:
    lab.warm(lab.source)


STEPS = (
    Step("read-first", "read of untouched upstream, first time", _read_untouched, _warm_upstream),
    Step("read-again", "the same again", _read_untouched),
    Step("read-cold", "the same, all caches dropped", _read_untouched, _drop_caches),
    Step("write-new", "write of new data, synced", _write_new),
    Step("read-back", "read of that, all caches dropped", _read, _drop_caches),
    Step("write-in-place", "the same data again in place", _write_source, _write_source),
    Step("write-elsewhere", "the same data elsewhere", partial(_write_source, elsewhere=True)),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """How the mount of a group is made."""

    name: str
    block_size: int
    direct_io: bool = False

    def subjects(self, lab: Lab, stack: ExitStack) -> Iterator[Subject]:
        """Yield all that do the work, the mount last."""
        yield stack.enter_context(plain(lab))
        yield stack.enter_context(null(lab, direct_io=self.direct_io))
        if not self.direct_io:
            for peer in peers(lab):
                yield stack.enter_context(peer(lab))
        options = ("-o", "direct_io") if self.direct_io else ()
        yield stack.enter_context(mounted(lab, *options, block_size=self.block_size))

    def key(self, step: str) -> str:
        """Return the key of a line."""
        return f"{step}-{self.name}"

    def measure(self, lab: Lab, wanted: Wanted) -> Samples:
        """Do all steps that are wanted, each on all subjects in turn."""
        samples: Samples = {}
        with ExitStack() as stack:
            subjects = list(self.subjects(lab, stack))
            for step in STEPS:
                cpu = self.key(f"cpu-{step.key}")
                if not {self.key(step.key), cpu} & set(wanted):
                    continue
                rates, costs = _run(lab, step, subjects)
                samples[self.key(step.key)] = _with_perfect(rates)
                samples[cpu] = _last_and_others(costs)
        return samples


def _run(
    lab: Lab, step: Step, subjects: Sequence[Subject]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return rates in MB/s, and processor seconds a GiB of those that are processes."""
    rates, costs = {}, {}
    for subject in subjects:
        if step.prepare is not None:
            step.prepare(lab, subject)
        lab.settle()
        begin = subject.cpu_s()
        rates[subject.name] = step.work(lab, subject)
        if subject.pid is not None:
            gibs = lab.sizes.working_bytes / GIB
            costs[subject.name] = (subject.cpu_s() - begin) / gibs
    return rates, costs


def _last_and_others(figures: dict[str, float]) -> Sample:
    *others, last = figures
    return Sample(figures[last], {name: figures[name] for name in others})


def _with_perfect(rates: dict[str, float]) -> Sample:
    sample = _last_and_others(rates)
    return Sample(sample.value, {**sample.others, "L": perfect(rates["null"], rates["plain"])})


_TARGETS: dict[str, tuple[str, float, float, str | None]] = {
    # Baseline, target, stretch, peer to be beaten.
    "read-first-4096": ("null", 0.55, 0.8, None),
    "read-again-4096": ("null", 0.8, 0.95, None),
    "write-new-4096": ("L", 0.65, 0.85, "qcow2"),
    "write-new-512": ("L", 0.30, 0.5, None),
    "write-in-place-4096": ("null", 0.40, 0.6, None),
    "write-elsewhere-4096": ("null", 0.40, 0.6, None),
    "write-in-place-512": ("null", 0.20, 0.4, None),
    "write-elsewhere-512": ("null", 0.20, 0.4, None),
}
_COSTS = ("read-first", "write-new", "write-in-place")


def _line(setting: Setting, step: Step) -> Line:
    key = setting.key(step.key)
    baseline = "L" if step.key in {"write-new", "read-cold", "read-back"} else "null"
    title = f"{step.title}, {setting.name.replace('-', ' ')}"
    if key not in _TARGETS:
        return Line(key, title, baseline=baseline)
    baseline, target, stretch, peer = _TARGETS[key]
    return Line(key, title, baseline=baseline, target=target, stretch=stretch, ahead_of=peer)


def _cost_line(setting: Setting, step: Step) -> Line:
    title = f"processor time: {step.title}, {setting.name.replace('-', ' ')}"
    return Line(setting.key(f"cpu-{step.key}"), title, "s/GiB", lower_is_better=True)


def _group(setting: Setting) -> Group:
    lines = [_line(setting, step) for step in STEPS]
    lines += [_cost_line(setting, step) for step in STEPS if step.key in _COSTS]
    return Group(tuple(lines), setting.measure)


GROUPS = tuple(
    _group(setting)
    for setting in (
        Setting("4096", 4096),
        Setting("512", 512),
        Setting("4096-direct_io", 4096, direct_io=True),
        Setting("512-direct_io", 512, direct_io=True),
    )
)
