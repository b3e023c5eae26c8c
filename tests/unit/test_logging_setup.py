"""Where the log of a mount goes."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from thincow.errors import ConfigurationError
from thincow.mount import logging_setup
from thincow.mount.options import MountOptions, parse_fuse_options


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The root logger; what a test adds to it goes again."""
    logger = logging.getLogger()
    before, level, raises = list(logger.handlers), logger.level, logging.raiseExceptions
    yield logger
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logging.raiseExceptions = raises


@pytest.fixture
def system_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    address = tmp_path / "log-socket"
    monkeypatch.setattr(logging_setup, "_SYSLOG_SOCKET", address)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(address))
        receiver.settimeout(5)
        yield receiver


def options(**changes: object) -> MountOptions:
    chosen: dict[str, object] = {
        "mount_point": Path("/mnt"),
        "fuse": parse_fuse_options(()),
        "foreground": False,
        "pid_file": None,
        "log_file": None,
        "verbose": False,
    }
    return MountOptions(**(chosen | changes))


def test_daemon_logs_to_the_system_log(system_log: socket.socket) -> None:
    logging_setup.set_up_logging(options())
    logging.getLogger("thincow.test").error("disk is bad")
    received = system_log.recv(1000).decode()
    assert "thincow[" in received
    assert "disk is bad" in received


def test_machine_without_a_system_log_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging_setup, "_SYSLOG_SOCKET", tmp_path / "missing")
    logging_setup.set_up_logging(options())
    logging.getLogger("thincow.test").info("nobody hears")


def test_log_file_takes_the_place_of_the_system_log(
    system_log: socket.socket, tmp_path: Path
) -> None:
    logging_setup.set_up_logging(options(log_file=tmp_path / "log"))
    logging.getLogger("thincow.test").error("disk is bad")
    assert "ERROR disk is bad" in (tmp_path / "log").read_text()
    system_log.settimeout(0)
    with pytest.raises(BlockingIOError):
        system_log.recv(1000)


@pytest.mark.parametrize(("foreground", "shown"), [(True, True), (False, False)])
def test_terminal_shows_all_in_the_foreground_only(
    system_log: socket.socket, capfd: pytest.CaptureFixture[str], foreground: bool, shown: bool
) -> None:
    logging_setup.set_up_logging(options(foreground=foreground))
    logging.getLogger("thincow.test").info("mounted")
    logging.getLogger("thincow.test").warning("upstream changed")
    text = capfd.readouterr().err
    assert "thincow: upstream changed" in text
    assert ("thincow: mounted" in text) == shown


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_logs_details(tmp_path: Path, verbose: bool) -> None:
    logging_setup.set_up_logging(options(log_file=tmp_path / "log", verbose=verbose))
    logging.getLogger("thincow.test").debug("detail")
    assert ("detail" in (tmp_path / "log").read_text()) == verbose


def test_log_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing/log"):
        logging_setup.set_up_logging(options(log_file=tmp_path / "missing/log"))
