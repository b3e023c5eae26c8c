"""The `thincow` command with a bug planted in it, which tests that look for losses must find."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.mounting import Mount, thincow_environment

_FORGETS_EVERY = 50


class PlantedMount(Mount):
    """A mount with one of the `BUGS`."""

    def __init__(self, directory: Path, bug: str) -> None:
        super().__init__(directory)
        self._bug = bug

    def try_start(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        """Mount; the result may be a failure."""
        command = [sys.executable, "-m", __name__, self._bug, *map(str, self.arguments(*options))]
        # A library must not start threads before the command forks.
        environment = {**thincow_environment(), "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, check=False
        )
        if done.returncode == 0:
            self._pids.append(self.pid)
        return done


def forget_writes() -> None:
    """Let the engine drop every so manieth write and say that it took it."""
    from thincow.engine.device import Device
    from thincow.engine.engine import Engine
    from thincow.engine.fetch import Fetch

    write = Engine.write
    count = 0

    def forgetful(
        self: Engine, device: Device, offset: int, data: bytes, fetch: Fetch | None = None
    ) -> int:
        nonlocal count
        count += 1
        if count % _FORGETS_EVERY == 0 and offset + len(data) <= device.size_bytes:
            return len(data)
        return write(self, device, offset, data, fetch)

    Engine.write = forgetful  # type: ignore[method-assign]


def answer_syncs_early() -> None:
    """Let a sync of a device be answered before anything is committed."""
    from thincow.mount.device_file import DeviceHandle

    async def early(self: DeviceHandle) -> None:
        pass

    DeviceHandle.sync = early  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "forgets-writes": forget_writes,
    "answers-syncs-early": answer_syncs_early,
}


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    BUGS[sys.argv.pop(1)]()
    from thincow.cli.main import main

    main()
