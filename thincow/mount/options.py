"""How a mount is asked for: what the command line hands to the mount layer.

Owns the meaning of `-o`: which options go to FUSE, which are ours. They are checked here, before
anything is opened or created, because FUSE itself would refuse them only after the store is made.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from thincow.errors import ConfigurationError

_FUSE_CONFIGURATION: Final = Path("/etc/fuse.conf")

_PLAIN_OPTIONS: Final = frozenset(
    {
        "allow_other",
        "allow_root",
        "async",
        "atime",
        "auto_unmount",
        "debug",
        "default_permissions",
        "dev",
        "dirsync",
        "exec",
        "noatime",
        "nodev",
        "noexec",
        "nosuid",
        "suid",
        "sync",
    }
)
_VALUE_OPTIONS: Final = frozenset({"context", "fsname"})
_PRIVILEGED_OPTIONS: Final = frozenset({"dev", "suid"})

FILESYSTEM_TYPE: Final = "fuse.thincow"
"""How the kernel's mount table names our mounts."""


@dataclass(frozen=True, slots=True)
class FuseOptions:
    """Options given with `-o`, sorted by who they are for.

    Attributes:
        for_fuse: handed on to FUSE as they are.
        direct_io: do not use the kernel's page cache for device files.
        read_only: `ro` was among them.
    """

    for_fuse: frozenset[str] = frozenset()
    direct_io: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Where and how to mount; every path is absolute.

    Attributes:
        original: when the mount point is a file: the one that is shown there.
        is_temporary: the store is removed when the mount ends.
    """

    mount_point: Path
    original: Path | None = None
    is_temporary: bool = False
    fuse: FuseOptions = FuseOptions()
    foreground: bool = False
    pid_file: Path | None = None
    log_file: Path | None = None
    verbose: bool = False


def parse_fuse_options(arguments: tuple[str, ...]) -> FuseOptions:
    """Sort the values of `-o`; each may hold several options between commas.

    Raises:
        ConfigurationError: for an option that FUSE does not know or does not grant this user.
    """
    for_fuse: set[str] = set()
    direct_io = read_only = False
    for option in (part for argument in arguments for part in argument.split(",") if part):
        if option == "direct_io":
            direct_io = True
        elif option == "ro":
            read_only = True
        elif option != "rw":
            _check(option)
            for_fuse.add(option)
    return FuseOptions(frozenset(for_fuse), direct_io, read_only)


def _check(option: str) -> None:
    name, equals, _value = option.partition("=")
    if name not in (_VALUE_OPTIONS if equals else _PLAIN_OPTIONS) or not option.isascii():
        raise ConfigurationError(f"-o {option}: no such mount option")
    if os.geteuid() == 0:
        return
    if name in _PRIVILEGED_OPTIONS:
        raise ConfigurationError(f"-o {option}: only root may use this mount option")
    if name in {"allow_other", "allow_root"} and not _others_may_be_allowed():
        raise ConfigurationError(
            f"-o {option}: only root may use it until {_FUSE_CONFIGURATION} says user_allow_other"
        )


def _others_may_be_allowed() -> bool:
    try:
        lines = _FUSE_CONFIGURATION.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def check_fuse_available() -> None:
    """Find out early whether this machine and user can mount at all.

    Raises:
        ConfigurationError: when the kernel's device or the `fusermount3` program is missing.
    """
    device = Path("/dev/fuse")
    if not device.exists():
        raise ConfigurationError(f"{device} does not exist; FUSE is not available here")
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise ConfigurationError("fusermount3 not found; install the package fuse3")
    if not os.access(device, os.R_OK | os.W_OK):
        raise ConfigurationError(f"{device} may not be opened by this user")
