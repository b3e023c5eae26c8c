"""Where the log of a mount goes: a file, the system log, or the terminal in the foreground."""

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Final

from thincow.errors import ConfigurationError
from thincow.mount.options import MountOptions

_SYSLOG_SOCKET: Final = Path("/dev/log")
_FILE_FORMAT: Final = "%(asctime)s %(levelname)s %(message)s"
_SYSLOG_FORMAT: Final = "thincow[%(process)d]: %(message)s"
_TERMINAL_FORMAT: Final = "thincow: %(message)s"


def set_up_logging(options: MountOptions) -> logging.Handler:
    """Direct the log of this process.

    Returns:
        The handler that shows the log on the terminal: all of it in the foreground, else warnings,
        until the mount is detached.

    Raises:
        ConfigurationError: when the log file cannot be written.
    """
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    logging.raiseExceptions = False  # a full disk under the log must not disturb the mount
    if options.log_file is not None:
        root.addHandler(_file_handler(options.log_file))
    elif not options.foreground:
        root.addHandler(_syslog_handler())
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter(_TERMINAL_FORMAT))
    root.addHandler(terminal)
    if not options.foreground:
        terminal.setLevel(logging.WARNING)
    return terminal


def _file_handler(path: Path) -> logging.Handler:
    try:
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise ConfigurationError(f"log file {path}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter(_FILE_FORMAT))
    return handler


def _syslog_handler() -> logging.Handler:
    """Log to the system's log; to nothing on a machine (a container) that has none."""
    try:
        handler = logging.handlers.SysLogHandler(
            address=str(_SYSLOG_SOCKET), facility=logging.handlers.SysLogHandler.LOG_DAEMON
        )
    except OSError:
        return logging.NullHandler()
    handler.setFormatter(logging.Formatter(_SYSLOG_FORMAT))
    return handler
