"""The clients that do the work: fio and dd."""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
_MB = 1_000_000
_NS_PER_US = 1000


@dataclass(frozen=True, slots=True)
class Job:
    """Work for fio.

    `span_bytes`: how much of the file, from its begin, it touches. `seconds`: for how long it
    works, after `warm_up_s` that are not counted; None is once over all of the span.
    """

    kind: str
    block_bytes: int
    span_bytes: int
    direct: bool = False
    depth: int = 1
    sync_each: bool = False
    sync_at_end: bool = False
    seconds: float | None = None
    warm_up_s: float = 0
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """What fio reached."""

    mb_s: float
    per_s: float
    mean_us: float
    bytes: int


def fio(path: Path, job: Job) -> Rate:
    """Run a job on an existing file, with new random data in every request."""
    command = [
        "fio",
        "--name=bench",
        f"--filename={path}",
        f"--rw={job.kind}",
        f"--bs={job.block_bytes}",
        f"--size={job.span_bytes}",
        f"--direct={int(job.direct)}",
        f"--iodepth={job.depth}",
        f"--ioengine={'psync' if job.depth == 1 else 'libaio'}",
        f"--fsync={int(job.sync_each)}",
        f"--end_fsync={int(job.sync_at_end)}",
        "--thread",
        "--allow_file_create=0",
        "--iomem_align=4096",
        "--randrepeat=0",
        "--refill_buffers",
        "--output-format=json",
    ]
    if job.seconds is not None:
        command += ["--time_based", f"--runtime={job.seconds}s", f"--ramp_time={job.warm_up_s}s"]
    if job.max_bytes is not None:
        command.append(f"--io_size={job.max_bytes}")
    output = run(*command)
    report = json.loads(output[output.index("{") :])["jobs"][0]
    figures = report["write" if "write" in job.kind else "read"]
    return Rate(
        figures["bw_bytes"] / _MB,
        figures["iops"],
        figures["lat_ns"]["mean"] / _NS_PER_US,
        figures["io_bytes"],
    )


def dd(
    source: Path,
    target: Path,
    length: int,
    *,
    seek: int = 0,
    skip: int = 0,
    sync: str = "",
    block_bytes: int = MIB,
) -> float:
    """Copy bytes between existing files and return MB/s; `sync` is `fsync`, `fdatasync` or none."""
    conversions = ",".join(filter(None, ("notrunc", sync)))
    command = ["dd", f"if={source}", f"of={target}", f"bs={block_bytes}", f"conv={conversions}"]
    command += [f"seek={seek}", f"skip={skip}", f"count={length}"]
    command += ["oflag=seek_bytes", "iflag=skip_bytes,count_bytes"]
    said = run(*command)
    found = re.search(r"(\d+) bytes .* copied, ([\d.e+-]+) s", said)
    assert found, said
    assert int(found[1]) == length, said
    return length / float(found[2]) / _MB


def read_through(path: Path, length: int) -> float:
    """Read a file from its begin and return MB/s."""
    return dd(path, Path(os.devnull), length)


def run(*command: str | Path) -> str:
    """Run a tool and return everything that it said; it must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stdout}")
    return done.stdout


def environment() -> dict[str, str]:
    """Return the environment of tools: messages in English, and this checkout for Python."""
    return {
        **os.environ,
        "LC_ALL": "C",
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "PYTHONPATH": str(ROOT),
    }


def versions() -> dict[str, str]:
    """Return the versions of the clients."""
    return {
        "fio": run("fio", "--version").strip(),
        "dd": run("dd", "--version").splitlines()[0],
    }
