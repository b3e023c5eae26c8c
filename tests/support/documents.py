"""The commands in documents, and a shell that runs them as users do."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.mounting import CHECKOUT, thincow_environment


def shell_blocks(name: str) -> list[str]:
    """Return the blocks of shell commands in a document."""
    text = (CHECKOUT / name).read_text()
    return re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_commands(directory: Path, commands: str) -> None:
    """Run commands of a document in a directory, with `thincow` in its folder `bin`."""
    subprocess.run(
        ["sh", "-e", "-x", "-c", commands],
        cwd=directory,
        env={
            **thincow_environment(),
            "PYTHON": sys.executable,
            "PATH": f"{_program(directory)}:{os.environ['PATH']}",
        },
        check=True,
        timeout=100,
    )


def _program(directory: Path) -> Path:
    """Return a directory with the command as users have it."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    command = programs / "thincow"
    command.write_text('#!/bin/sh\nexec "$PYTHON" -m thincow "$@"\n')
    command.chmod(0o755)
    return programs
