"""A peer that anybody can install: a qcow2 overlay, exported through FUSE by the makers of QEMU."""

import os
import select
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from tools.benchmarks.clients import run
from tools.benchmarks.lab import Lab
from tools.benchmarks.subjects import TIMEOUT_S, Subject

_TOOLS = ("qemu-storage-daemon", "qemu-img")
_PACKAGES = ("qemu-system-common", "qemu-utils")


@contextmanager
def qcow2(lab: Lab) -> Iterator[Subject]:
    """Export a qcow2 overlay of the same upstream through FUSE, as its makers mean it to be."""
    place = lab.new_directory("qcow2")
    overlay, export = place / "overlay", place / "export"
    backing = lab.upstream / "disk"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", overlay)
    export.touch()
    command = [
        "qemu-storage-daemon",
        "--blockdev",
        f"driver=file,node-name=file,filename={overlay}",
        "--blockdev",
        "driver=qcow2,node-name=disk,file=file",
        "--export",
        f"type=fuse,id=disk,node-name=disk,mountpoint={export},writable=on",
        "--daemonize",
        "--pidfile",
        str(place / "pid"),
    ]
    run(*command)
    pid = int((place / "pid").read_text())
    try:
        yield Subject("qcow2", export, pid)
    finally:
        run("umount", export)
        process = os.pidfd_open(pid)
        signal.pidfd_send_signal(process, signal.SIGTERM)
        select.select([process], [], [], TIMEOUT_S)
        os.close(process)
    lab.remove(place)


def peers(lab: Lab) -> list[Callable[[Lab], AbstractContextManager[Subject]]]:
    """Return the peers that are measured too."""
    return [qcow2] if lab.peers else []


def has_peers() -> bool:
    """Tell whether the peer is installed."""
    return all(map(shutil.which, _TOOLS))


def install_peers() -> None:
    """Install the peer on Debian and what descends from it; elsewhere it must be there."""
    if not has_peers():
        run("apt-get", "install", "-y", "--no-install-recommends", *_PACKAGES)


def peer_versions() -> dict[str, str]:
    """Return the version of the peer."""
    return {"qcow2": run(_TOOLS[0], "--version").splitlines()[0]}
