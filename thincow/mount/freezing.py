"""Freezing a mount from outside, by its pid file: sends signals and waits for the state.

The lock on the pid file, not the number in it, says which process is meant.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from thincow.errors import ConfigurationError, ThincowError
from thincow.store.locks import find_holders

_LOOK_AGAIN_S: Final = 0.01
_THAW_TIMEOUT_S: Final = 10.0
_STOPPED: Final = "T"


def freeze(pid_file: Path, timeout_s: float) -> None:
    """Return when the process that holds a pid file has stopped, with its store in order.

    Raises:
        ConfigurationError: when there is none, or it serves no mount, or is stopped already.
        ThincowError: when it does not stop in time (it goes on then), or has ended.
    """
    pid = _find_process(pid_file)
    if _state(pid) == _STOPPED:
        raise ConfigurationError(
            f"process {pid} is stopped already, it is not known in what state: thaw it first"
        )
    if not _catches(pid, signal.SIGTSTP):
        raise ConfigurationError(f"process {pid} is starting or ending: it cannot be frozen now")
    _send(pid, signal.SIGTSTP)
    has_stopped = False
    try:
        has_stopped = _wait(lambda: _state(pid) == _STOPPED, timeout_s)
    finally:
        if not has_stopped:  # it might stop later, when nobody expects it
            with suppress(ThincowError):
                _send(pid, signal.SIGCONT)
    if not has_stopped:
        raise ThincowError(
            f"process {pid} did not freeze within {timeout_s:g} s and goes on; see its log"
        )


def thaw(pid_file: Path) -> None:
    """Let the process that holds a pid file go on; one that is not stopped does.

    Raises:
        ConfigurationError: when there is none.
        ThincowError: when it does not go on.
    """
    pid = _find_process(pid_file)
    _send(pid, signal.SIGCONT)
    if not _wait(lambda: _state(pid) != _STOPPED, _THAW_TIMEOUT_S):
        raise ThincowError(f"process {pid} does not go on")


def _find_process(pid_file: Path) -> int:
    try:
        holders = find_holders(pid_file.stat())
    except OSError as error:
        raise ConfigurationError(f"pid file {pid_file}: {error.strerror}") from None
    if len(holders) != 1:
        raise ConfigurationError(f"no thincow runs with the pid file {pid_file}")
    return holders[0]


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise ThincowError(f"process {pid} has ended") from None
    except PermissionError:
        raise ThincowError(f"process {pid} belongs to another user") from None


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True


def _state(pid: int) -> str:
    return _read(pid, "stat").rpartition(")")[2].split()[0]


def _catches(pid: int, number: signal.Signals) -> bool:
    for line in _read(pid, "status").splitlines():
        name, _, value = line.partition(":")
        if name == "SigCgt":
            return bool(int(value, 16) >> (number - 1) & 1)
    return False


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise ThincowError(f"process {pid} has ended") from None
