"""`tools/bench profile`: where the time of a request goes.

The mount serves a client while py-spy looks at its stacks; every look counts for the innermost
function of thincow. Shares are turned into microseconds with the processor time of the process.
"""

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thincow.engine.options import StoreOptions
from tools.benchmarks import engine_alone
from tools.benchmarks.clients import Job, dd, fio, run
from tools.benchmarks.lab import Lab
from tools.benchmarks.subjects import Subject, mounted, null

MIB = 1 << 20
_SMALL = 4096
_US = 1e6
_LOOKS_PER_S = 250
_PY_SPY = Path(sys.executable).with_name("py-spy")
_FRAME = re.compile(r"(?P<function>[^(]+) \((?P<file>[^:)]+)")
_LOOP = ("mount/fuse_server", "mount/session")
_START_S = 1.0
_SHOWN_PARTS = 14
_LEAST_SHARE = 0.015


@dataclass(frozen=True, slots=True)
class Operation:
    """A kind of request, and the client that makes such requests for some seconds."""

    key: str
    title: str
    request_bytes: int
    client: Callable[[Lab, Subject, float], "Done"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a client did."""

    requests: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """Microseconds a request: as clients see it, in the process, and by function."""

    operation: Operation
    client_us: float
    null_us: float
    engine_us: float
    process_us: float
    parts: list[tuple[str, float]]


def _fio(
    kind: str, block: int, *, direct: bool, sync_each: bool = False
) -> Callable[[Lab, Subject, float], Done]:
    def client(lab: Lab, subject: Subject, seconds: float) -> Done:
        job = Job(
            kind,
            block,
            lab.sizes.working_bytes,
            direct=direct,
            sync_each=sync_each,
            seconds=seconds,
        )
        rate = fio(subject.path, job)
        return Done(rate.bytes / block, rate.bytes / block / rate.per_s)

    return client


def _write_again(lab: Lab, subject: Subject, seconds: float) -> Done:
    requests, spent = 0, 0.0
    while spent < seconds:
        length = lab.sizes.working_bytes
        spent += length / dd(lab.source, subject.path, length) / 1e6
        requests += length // MIB
    return Done(requests, spent)


OPERATIONS = (
    Operation("read-4k", "4 KiB read, O_DIRECT", _SMALL, _fio("randread", _SMALL, direct=True)),
    Operation(
        "write-4k", "4 KiB write of new data", _SMALL, _fio("randwrite", _SMALL, direct=True)
    ),
    Operation("write-1m-new", "1 MiB write of new data", MIB, _fio("write", MIB, direct=True)),
    Operation("write-1m-duplicate", "1 MiB write of known data", MIB, _write_again),
    Operation(
        "commit",
        "4 KiB write with fsync (a small commit)",
        _SMALL,
        _fio("randwrite", _SMALL, direct=False, sync_each=True),
    ),
)


def profile(lab: Lab, seconds: float, say: Callable[[str], None]) -> Iterator[Profile]:
    """Profile all operations, each with a fresh store."""
    alone = dict(_engine_alone(lab, seconds / 2))
    for operation in OPERATIONS:
        say(operation.title)
        lab.warm(lab.upstream / "disk")
        with null(lab) as subject:
            nothing = operation.client(lab, subject, seconds / 2)
        with mounted(lab) as subject:
            if operation.client is _write_again:
                _write_again(lab, subject, 0.001)
            lab.settle()
            with _looking(lab, subject, seconds) as stacks:
                begin = subject.cpu_s()
                done = operation.client(lab, subject, seconds + 2 * _START_S)
                process_us = (subject.cpu_s() - begin) / done.requests * _US
            yield Profile(
                operation,
                done.seconds / done.requests * _US,
                nothing.seconds / nothing.requests * _US,
                alone[operation.key],
                process_us,
                _parts(stacks, process_us),
            )


def _engine_alone(lab: Lab, seconds: float) -> Iterator[tuple[str, float]]:
    lab.warm(lab.upstream / "disk")
    for operation in OPERATIONS:
        store = lab.new_directory("store")
        with engine_alone.opened(StoreOptions(store, store, lab.upstream)) as bench:
            request = engine_alone.requests(bench, lab.sizes.working_bytes)[operation.key]
            yield operation.key, engine_alone.time_requests(bench, request, seconds)
        lab.remove(store)


@contextmanager
def _looking(lab: Lab, subject: Subject, seconds: float) -> Iterator[Counter[str]]:
    """Count the stacks of a process; the counts are there when the block has ended."""
    output = lab.directory / "stacks"
    command = [
        str(_PY_SPY),
        "record",
        "--pid",
        str(subject.pid),
        "--duration",
        str(max(1, int(seconds))),
    ]
    command += ["--rate", str(_LOOKS_PER_S), "--format", "raw", "--output", str(output)]
    command += ["--function", "--nonblocking"]
    failures: list[str] = []

    def look() -> None:
        try:
            run(*command)
        except (RuntimeError, OSError) as error:
            failures.append(str(error))

    thread = threading.Timer(_START_S, look)
    thread.start()
    stacks: Counter[str] = Counter()
    yield stacks
    thread.join()
    if failures:
        raise RuntimeError(failures[0])
    for line in output.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        stacks[stack] += int(count)


def _parts(stacks: Counter[str], process_us: float) -> list[tuple[str, float]]:
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        counts[_innermost(stack)] += count
    total = sum(counts.values())
    return [(part, count / total * process_us) for part, count in counts.most_common()]


def _innermost(stack: str) -> str:
    """Return the innermost function of thincow in a stack, as layer/module.function.

    Where that is only the one that runs the event loop: what the loop does.
    """
    frames = [found for frame in stack.split(";") if (found := _FRAME.match(frame))]
    for found in reversed(frames):
        if "thincow/" not in found["file"]:
            continue
        place = found["file"].rpartition("thincow/")[2].removesuffix(".py")
        if not place.startswith(_LOOP):
            return f"{place}.{found['function']}"
        break
    return f"pyfuse3 and trio: {frames[-1]['function']}" if frames else "pyfuse3 and trio"


def markdown(profiles: Sequence[Profile]) -> str:
    """Return two tables: the whole requests, and for each its parts."""
    text = "| request | client | null server | engine alone | processor time of the process |\n"
    text += "|---|---|---|---|---|\n"
    for found in profiles:
        figures = (found.client_us, found.null_us, found.engine_us, found.process_us)
        cells = " | ".join(f"{figure:,.1f}" for figure in figures)
        text += f"| {found.operation.title} | {cells} |\n"
    for found in profiles:
        text += f"\n| {found.operation.title}: in | µs | share |\n|---|---|---|\n"
        for part, part_us in found.parts[:_SHOWN_PARTS]:
            share = part_us / found.process_us
            if share >= _LEAST_SHARE:
                text += f"| {part} | {part_us:,.1f} | {share:.0%} |\n"
    return text


def to_json(profiles: Sequence[Profile]) -> list[dict[str, Any]]:
    """Return everything as plain data."""
    return [
        {
            "key": found.operation.key,
            "client_us": found.client_us,
            "null_us": found.null_us,
            "engine_us": found.engine_us,
            "process_us": found.process_us,
            "parts_us": dict(found.parts),
        }
        for found in profiles
    ]
