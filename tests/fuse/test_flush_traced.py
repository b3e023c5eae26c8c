"""What a mount does to upstream, by what strace sees of its system calls."""

import errno
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.flushing import Way, command, offline_arguments, state, write
from tests.support.mounting import Mount, is_mounted, thincow_command, thincow_environment

BLOCK = 4096
_CALLS = "open,openat,openat2,creat,write,pwrite64,pwritev,pwritev2,fsync,fdatasync"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += +\d+")
_PARTS = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$|^(\d+) +<\.\.\. \w+ resumed>(.*)$")


@contextmanager
def traced(mount: Mount, *options: str) -> Iterator[Path]:
    """Mount in the foreground under strace until the block ends; give the file with the calls."""
    trace = mount.directory / "trace"
    command = _under_strace(trace, *mount.arguments("-f", *options))
    with subprocess.Popen(command, env=thincow_environment()) as process:
        while not is_mounted(mount.point) or not mount.devs.is_dir():
            assert process.poll() is None
            time.sleep(0.02)
        yield trace
        mount.umount()
        assert process.wait() == 0


def _under_strace(trace: Path, *arguments: str | Path) -> list[str]:
    tracer = ["strace", "-f", "-y", "-s", "16", "-o", str(trace), "-e", f"trace={_CALLS}", "--"]
    return [*tracer, *thincow_command(*arguments)]


def calls(trace: Path) -> list[tuple[str, str]]:
    """Return the calls that succeeded as (name, arguments), in the order of their ends."""
    found = []
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        whole = line
        if parts := _PARTS.match(line):
            if parts[1]:
                begun[parts[1]] = line.removesuffix(" <unfinished ...>")
                continue
            whole = begun.pop(parts[3]) + parts[4]
        if match := _CALL.match(whole):
            found.append((match[1], match[2]))
    return found


def is_open_for_writing(name: str, arguments: str) -> bool:
    return "open" in name and ("O_WRONLY" in arguments or "O_RDWR" in arguments)


@pytest.mark.parametrize("option", ["--read-only-upstream", "--read-only"])
def test_upstream_is_never_opened_for_writing(mount: Mount, option: str) -> None:
    path = mount.add("disk", os.urandom(16 * BLOCK))
    mount.start()
    write(mount, "disk", os.urandom(BLOCK))
    mount.umount()
    with traced(mount, option) as trace:
        assert state(mount) == "disabled"
        try:
            failure = command(mount, "full\n")
        except OSError as error:  # a file system mounted read-only refuses to open it
            failure = error.errno or 0
        assert failure == errno.EROFS
        assert state(mount) == "disabled"
        if option == "--read-only-upstream":
            write(mount, "disk", os.urandom(4 * BLOCK))
    of_upstream = [call for call in calls(trace) if str(path) in call[1]]
    assert any("open" in name for name, _ in of_upstream)
    assert not any(is_open_for_writing(*call) for call in of_upstream)
    assert not any("write" in name for name, _ in of_upstream)


@pytest.mark.parametrize("way", Way)
def test_flush_syncs_upstream_between_the_commits_that_mark_and_forget(
    mount: Mount, way: Way
) -> None:
    path = mount.add("disk", os.urandom(600 * BLOCK))
    with traced(mount) as trace:
        (mount.devs / "disk").read_bytes()
        write(mount, "disk", os.urandom(500 * BLOCK))
        if way is Way.MOUNTED:
            assert command(mount, "full\n") == 0
    if way is Way.OFFLINE:
        flush = _under_strace(trace, "flush", *offline_arguments(mount))
        subprocess.run(flush, env=thincow_environment(), check=True)
    log = f"<{mount.database}-wal>"
    events = []
    for name, arguments in calls(trace):
        if is_open_for_writing(name, arguments) and f'"{path}"' in arguments:
            events.append("open upstream")
        elif f"<{path}>" in arguments and "write" in name:
            events.append("write upstream")
        elif f"<{path}>" in arguments and "sync" in name:
            events.append("sync upstream")
        elif log in arguments and "sync" in name:
            events.append("commit")
    order = [event for at, event in enumerate(events) if at == 0 or events[at - 1] != event]
    print(order)
    at = order.index("open upstream")
    # Its commits before: of the contents. While it is open: the mark, the contents, then identity.
    assert order[:at] == ["commit"]
    assert order[at:] == ["open upstream", "commit", "write upstream", "sync upstream", "commit"]
