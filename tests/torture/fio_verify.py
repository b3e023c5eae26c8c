"""Random writes by `fio`, whose blocks carry checksums, verified by the process that wrote them."""

import os
import subprocess
import time
from typing import Final

from tests.support.mounting import Mount

WAYS: Final = {"direct": ("--direct=1",), "cached": ("--direct=0", "--fsync=256")}
_WAIT_S: Final = 3600


def run(mount: Mount, way: str, seed: int, size_bytes: int) -> float:
    """Write every block of a device once, in random order, and verify all.

    Args:
        mount: not mounted, without upstream; it is not mounted at the end either.
        way: one of `WAYS`.
        seed: decides the order and the contents.
        size_bytes: the device's size.

    Returns:
        How long it took, in seconds.

    Raises:
        AssertionError: when fio does not find what it wrote.
    """
    mount.add("disk", b"")
    os.truncate(mount.upstream / "disk", size_bytes)
    mount.start()
    begun = time.monotonic()
    done = subprocess.run(
        [
            "fio",
            "--name=verified",
            f"--filename={mount.devs / 'disk'}",
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--blockalign=512",
            f"--size={size_bytes}",
            "--ioengine=psync",
            f"--randseed={seed}",
            "--allrandrepeat=1",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--output-format=terse",
            *WAYS[way],
        ],
        cwd=mount.directory,
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=False,
    )
    took_s = time.monotonic() - begun
    assert done.returncode == 0, done.stdout + done.stderr
    mount.umount()
    return took_s
