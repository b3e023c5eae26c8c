"""What is measured: a mount, and the servers and files it is held against."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from thincow.mount.mount_table import find_mount
from thincow.mount.read_ahead import raise_read_ahead
from tools.benchmarks.clients import environment, run
from tools.benchmarks.lab import Lab, Usage

_TICKS = os.sysconf("SC_CLK_TCK")
TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Subject:
    """A file that clients work on, and the process behind it, if any."""

    name: str
    path: Path
    pid: int | None = None
    store: Path | None = None

    def cpu_s(self) -> float:
        """Return the processor time that the process has taken so far."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_rss_mib(pid: int) -> float:
    """Return the most memory that a process had since its program began."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0  # it has ended, and nobody has asked for its status yet


@contextmanager
def plain(lab: Lab) -> Iterator[Subject]:
    """Yield a new file of the size of a device, without contents, on the store's filesystem."""
    place = lab.new_directory("plain")
    path = place / "disk"
    path.touch()
    os.truncate(path, lab.sizes.device_bytes)
    yield Subject("plain", path)
    lab.remove(place)


def thincow(*arguments: str | Path) -> str:
    """Run a command of thincow."""
    return run(sys.executable, "-m", "thincow", *arguments)


@contextmanager
def mounted(
    lab: Lab,
    *options: str,
    block_size: int = 4096,
    upstream: Path | None = None,
    store: Path | None = None,
    is_usual: bool = True,
) -> Iterator[Subject]:
    """Mount a fresh store, or one that exists, and yield its first device.

    `is_usual`: the size of the device is that of most lines, for which memory has a target.
    """
    upstream = upstream or lab.upstream
    name = min(path.name for path in upstream.iterdir())
    point = lab.new_directory("mnt")
    data = store or lab.new_directory("store")
    places = ("--upstream", upstream, "--data-dir", data)
    thincow("mount", *options, *places, "--block-size", str(block_size), point)
    try:
        pid = int((point / "debug" / "pid.txt").read_text())
        subject = Subject(f"thincow {block_size}", point / "devs" / name, pid, data)
        yield subject
        lab.usages.append(Usage(block_size, is_usual and not options, peak_rss_mib(pid)))
    finally:
        thincow("umount", point)
    if store is None:
        lab.remove(data, point)


@contextmanager
def null(lab: Lab, *, direct_io: bool = False) -> Iterator[Subject]:
    """Mount the server that does nothing."""
    point = lab.new_directory("null")
    command = [sys.executable, "-m", "tools.benchmarks.null_server", str(point)]
    command.append(str(lab.sizes.device_bytes))
    if direct_io:
        command.append("--direct-io")
    with _server(command, point) as server:
        mount = find_mount(point)
        assert mount is not None
        raise_read_ahead(mount.device)
        yield Subject("null", point / "devs" / "disk", server.pid)


@contextmanager
def _server(command: Sequence[str], point: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a server that says something when it is ready and ends when it is unmounted."""
    server = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        # As a mount: the kernel shares time between sessions, and favours the one of the client.
        start_new_session=True,
    )
    assert server.stdout is not None
    try:
        select.select([server.stdout], [], [], TIMEOUT_S)
        if "ready" not in server.stdout.readline():
            raise RuntimeError(f"{command} did not start")
        yield server
    finally:
        if os.path.ismount(point):
            run("umount", point)
        else:
            server.terminate()
        server.wait(TIMEOUT_S)
        server.stdout.close()
