"""Options of `-o`, checked before anything is created."""

import os
from pathlib import Path

import pytest

from thincow.errors import ConfigurationError
from thincow.mount import options
from thincow.mount.options import FuseOptions, parse_fuse_options


@pytest.fixture
def ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_no_options() -> None:
    assert parse_fuse_options(()) == FuseOptions()


def test_options_are_split_at_commas_and_sorted_by_owner() -> None:
    assert parse_fuse_options(("noatime,direct_io", "ro,fsname=disks", "rw,,")) == FuseOptions(
        for_fuse=frozenset({"noatime", "fsname=disks"}), direct_io=True, read_only=True
    )


@pytest.mark.parametrize(
    "option", ["bogus", "noatime=1", "fsname", "subtype=x", "fsname=\N{SNOWMAN}"]
)
def test_unknown_options_are_refused(option: str) -> None:
    with pytest.raises(ConfigurationError, match="no such mount option"):
        parse_fuse_options((option,))


@pytest.mark.usefixtures("ordinary_user")
@pytest.mark.parametrize("option", ["dev", "suid"])
def test_privileged_options_need_root(option: str) -> None:
    with pytest.raises(ConfigurationError, match="only root"):
        parse_fuse_options((option,))


@pytest.mark.usefixtures("ordinary_user")
@pytest.mark.parametrize(
    ("configuration", "is_allowed"),
    [("", False), ("#user_allow_other\n", False), ("mount_max = 5\n user_allow_other \n", True)],
)
def test_allow_other_needs_the_consent_of_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, configuration: str, is_allowed: bool
) -> None:
    (tmp_path / "fuse.conf").write_text(configuration)
    monkeypatch.setattr(options, "_FUSE_CONFIGURATION", tmp_path / "fuse.conf")
    if is_allowed:
        assert parse_fuse_options(("allow_other",)).for_fuse == {"allow_other"}
    else:
        with pytest.raises(ConfigurationError, match="user_allow_other"):
            parse_fuse_options(("allow_other",))
