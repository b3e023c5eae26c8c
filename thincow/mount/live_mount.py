"""A mount as others see it who want something of it: its files and attributes, from outside.

While it is open the mount cannot be unmounted, so what it is asked for can be waited for.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Self

from thincow.errors import FlushError, MountPointError
from thincow.mount.flush_words import FLUSH_ATTRIBUTE
from thincow.mount.mount_table import MountEntry, find_mount
from thincow.mount.told import FACTS_NAME, read_told


class LiveMount:
    """An open mount.

    Root becomes the user who mounted, for good: nobody else may look into a mount.

    Raises (all methods):
        MountPointError: when it does not answer.
    """

    def __init__(self, mount_point: Path) -> None:
        """Open a mount.

        Raises:
            MountPointError: when there is none of ours.
        """
        self.point = mount_point
        entry = find_mount(mount_point.resolve())
        if entry is None or not entry.is_thincow:
            raise MountPointError(f"{mount_point} is not a thincow mount")
        _become_owner(entry)
        try:
            self._root = os.open(mount_point, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise self._no_answer(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    @property
    def is_overlay(self) -> bool:
        """Whether the mount is a file."""
        return stat.S_ISREG(os.fstat(self._root).st_mode)

    def read(self, name: str) -> str:
        """Return the content of a virtual file."""
        try:
            return os.fsdecode(read_told(self._root, name))
        except OSError as error:
            raise self._no_answer(error) from None

    def stats(self, name: str = "stats.txt") -> dict[str, str]:
        """Return statistics by their keys."""
        lines = self.read(name).splitlines()
        return {key: value for key, _, value in (line.rpartition(": ") for line in lines)}

    def device_names(self) -> list[str]:
        """Return the names of the devices, sorted."""
        if self.is_overlay:
            return [json.loads(self.read(FACTS_NAME))["device"]]
        try:
            devices = self._open("devs", os.O_RDONLY | os.O_DIRECTORY)
            try:
                return sorted(os.listdir(devices))  # noqa: PTH208 - of a descriptor
            finally:
                os.close(devices)
        except OSError as error:
            raise self._no_answer(error) from None

    def command_flush(self, words: str) -> None:
        """Begin or cancel a flush, see `flush_words`.

        Raises:
            FlushError: when it cannot begin.
        """
        try:
            os.setxattr(self._root, FLUSH_ATTRIBUTE, os.fsencode(words))
        except OSError as error:
            reasons = {
                errno.EROFS: "flushing is disabled in this mount",
                errno.EBUSY: "a flush is running already",
                errno.EACCES: "permission denied",
                errno.EPERM: "permission denied",
            }
            if error.errno in reasons:
                raise FlushError(f"{self.point}: {reasons[error.errno]}", error.errno) from None
            raise self._no_answer(error) from None

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, dir_fd=self._root)

    def _no_answer(self, error: OSError) -> MountPointError:
        return MountPointError(f"{self.point} does not answer: {error.strerror}")


def _become_owner(entry: MountEntry) -> None:
    """Become the user who mounted, if that is another one and we may."""
    user = int(entry.options["user_id"])
    if os.geteuid() == 0 and user != 0:
        os.setgroups([])
        os.setgid(int(entry.options["group_id"]))
        os.setuid(user)
