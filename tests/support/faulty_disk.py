"""Starts and stops `faulty_fuse`: a disk that fails as a test wants it to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVER = Path(__file__).with_name("faulty_fuse.py")
_PATIENCE_S = 20.0


class FaultyDisk:
    """The files of a directory, served with faults; `path` is where one of them is to be found."""

    def __init__(self, mountpoint: Path, control: Path) -> None:
        self._mountpoint = mountpoint
        self._control = control

    def path(self, name: str) -> Path:
        return self._mountpoint / name

    @property
    def has_held_read(self) -> bool:
        """Whether a read has had to wait."""
        return self._control.with_suffix(".held").exists()

    def fail(self, *kinds: str) -> None:
        """Let these faults be there from now on, and no others: words as `faulty_fuse` says."""
        # Replaced, not rewritten: the server must not see half of it.
        new = self._control.with_suffix(".new")
        new.write_text(" ".join(kinds), "ascii")
        new.rename(self._control)


@contextmanager
def faulty_disk(
    backing: Path,
    mountpoint: Path,
    read_error_every: int = 0,
    block_size: int = 4096,
    first_bad_block: int | None = None,
    *,
    writeback: bool = False,
) -> Iterator[FaultyDisk]:
    """Serve the files in `backing` at `mountpoint`, an empty directory, until the block ends.

    Args:
        backing: a directory of regular files; they are written through.
        mountpoint: an existing directory.
        read_error_every: N: reads of every Nth block of each file fail; 0: none.
        block_size: the blocks that `read_error_every` counts, in bytes.
        first_bad_block: the index of the first block that fails; N - 1 when not given.
        writeback: let the kernel keep what is written, and write it later.
    """
    control = mountpoint.with_name(mountpoint.name + ".control")
    if first_bad_block is None:
        first_bad_block = max(0, read_error_every - 1)
    command = [
        sys.executable,
        str(_SERVER),
        str(backing),
        str(mountpoint),
        f"--read-error-every={read_error_every}",
        f"--first-bad-block={first_bad_block}",
        f"--block-size={block_size}",
        f"--control={control}",
        *(["--writeback"] if writeback else []),
    ]
    with subprocess.Popen(command) as server:
        try:
            _wait_until_mounted(server, mountpoint)
            yield FaultyDisk(mountpoint, control)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                subprocess.run(["fusermount3", "-uz", mountpoint], check=False)
                raise
            control.unlink(missing_ok=True)


def _wait_until_mounted(server: subprocess.Popen[bytes], mountpoint: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not os.path.ismount(mountpoint):
        if server.poll() is not None:
            raise RuntimeError(f"faulty_fuse ended with status {server.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError("faulty_fuse does not mount")
        time.sleep(0.01)
