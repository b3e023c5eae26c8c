"""What docs/flush.md and the README tell to do about flushing works as it is written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mounting import CHECKOUT, Mount, is_mounted, shell, thincow_environment


def shell_blocks(name: str) -> list[str]:
    text = (CHECKOUT / name).read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


BLOCKS = shell_blocks("docs/flush.md")
README = [text for text in shell_blocks("README.md") if "thincow flush" in text]


@pytest.fixture
def place(mount: Mount) -> Mount:
    """A mount `mnt` in its directory, of a changed `disk` and `disk.img`, and `thincow` in PATH."""
    for name in ("disk", "disk.img"):
        shell("mkfs.ext4", "-q", mount.add(name, bytes(1 << 20)))
    mount.start()
    for name in ("disk", "disk.img"):
        shell("tune2fs", "-L", "changed", mount.devs / name)
    return mount


def run(mount: Mount, commands: str) -> None:
    subprocess.run(
        ["sh", "-e", "-x", "-c", commands],
        cwd=mount.directory,
        env={
            **thincow_environment(),
            "PYTHON": sys.executable,
            "PATH": f"{program(mount)}:{os.environ['PATH']}",
        },
        check=True,
        timeout=100,
    )


def program(mount: Mount) -> Path:
    """Return a directory with the command as users have it."""
    directory = mount.directory / "bin"
    directory.mkdir(exist_ok=True)
    command = directory / "thincow"
    command.write_text('#!/bin/sh\nexec "$PYTHON" -m thincow "$@"\n')
    command.chmod(0o755)
    return directory


@pytest.mark.parametrize("commands", [*BLOCKS, *README], ids=lambda text: text.splitlines()[0][:40])
def test_documented_commands_run(commands: str, place: Mount) -> None:
    run(place, commands)
    if is_mounted(place.point) and "--dry-run --device" not in commands:
        changes = "--dry-run" not in commands or len(commands.splitlines()) > 1
        assert (place.stats()["Device disk flush writes"] != "0") == changes


def test_documents_show_commands() -> None:
    assert len(BLOCKS) >= 5
    assert len(README) == 1
