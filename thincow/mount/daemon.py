"""Detaching from the terminal: the caller waits until the mount works, then the process is alone.

The child opens everything itself: locks, SQLite connections and threads do not survive a fork. It
reports through a pipe; should it die without a word, the parent sees the pipe close and says so.
"""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from thincow.errors import ThincowError

_READY: Final = b"ready"
_FIRST_INHERITED: Final = 3
_UNEXPECTED: Final = 1
_INTERRUPTED: Final = 130


def run_detached(serve: Callable[[Callable[[], None]], None], *, verbose: bool) -> int:
    """Run `serve` in a process of its own and return when it is ready or has failed.

    Args:
        serve: does the work; it calls its argument once it is ready to be used.
        verbose: show the traceback of an unexpected failure.

    Returns:
        The exit status for the command: 0 when the work goes on in the background.
    """
    report, child_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(report)
        _be_the_child(serve, child_end, verbose=verbose)
    os.close(child_end)
    return _await_report(report, child)


def _await_report(report: int, child: int) -> int:
    try:
        with open(report, "rb") as pipe:
            words = pipe.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        return _INTERRUPTED
    if words == _READY:
        return 0
    code, _, text = words.decode(errors="replace").partition(" ")
    _, status = os.waitpid(child, 0)
    if code:
        sys.stderr.write(f"{text}\n")
        return int(code)
    ending = os.waitstatus_to_exitcode(status)
    how = f"was killed by signal {-ending}" if ending < 0 else f"ended with status {ending}"
    sys.stderr.write(f"thincow: the mounting process {how} before the mount was ready\n")
    return _UNEXPECTED


def _be_the_child(
    serve: Callable[[Callable[[], None]], None], pipe: int, *, verbose: bool
) -> NoReturn:
    """Serve, report, and leave without running anything of the parent's."""
    status = _UNEXPECTED
    is_ready = False

    def ready() -> None:
        nonlocal is_ready
        is_ready = True
        _detach_terminal()
        with contextlib.suppress(OSError):  # nobody waits any more: serve all the same
            os.write(pipe, _READY)
        os.close(pipe)

    def failed(code: int, text: str) -> int:
        if not is_ready:
            os.write(pipe, f"{code} {text}".encode(errors="replace"))
        return code

    try:
        os.setsid()
        os.chdir("/")
        _close_inherited(keep=pipe)
        serve(ready)
        status = 0
    except ThincowError as error:
        status = failed(error.exit_code, f"thincow: {error}")
    except BaseException as error:  # noqa: BLE001 - the parent must hear of it
        text = traceback.format_exc() if verbose else ""
        status = failed(_UNEXPECTED, f"{text}thincow: unexpected error: {describe(error)}")
    finally:
        with contextlib.suppress(Exception):
            logging.shutdown()
        os._exit(status)


def describe(error: BaseException) -> str:
    """Return an unexpected error in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _close_inherited(keep: int) -> None:
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        if fd >= _FIRST_INHERITED and fd != keep:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(fd)


def _detach_terminal() -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(_FIRST_INHERITED):
        os.dup2(null, fd)
    if null >= _FIRST_INHERITED:
        os.close(null)
