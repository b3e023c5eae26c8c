"""Every command in docs/live.md runs."""

import os
import shlex
from pathlib import Path

import pytest

from tests.support.documents import shell_blocks
from tests.support.mounting import CHECKOUT, is_mounted, run_thincow

BLOCK = 4096


def commands() -> list[list[str]]:
    blocks = shell_blocks("docs/live.md")
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert {line[0] for line in lines} == {"thincow"}
    return [line[1:] for line in lines]


def test_commands_of_the_document_run(tmp_path: Path) -> None:
    for name in ("disks", "mnt", "mnt2"):
        (tmp_path / name).mkdir()
    (tmp_path / "disks/disk.img").write_bytes(os.urandom(64 * BLOCK))

    def run(*arguments: str) -> str:
        done = run_thincow(*arguments, cwd=tmp_path)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(offset: int) -> None:
        with (tmp_path / "mnt/devs/disk.img").open("r+b") as file:
            file.seek(offset)
            file.write(os.urandom(BLOCK))

    mount = ("mount", "--upstream", "disks", "--log-file", "log")
    run(*mount, "--data-dir", "closed", "--no-mount")
    run(*mount, "--data-dir", "store", "mnt")
    try:
        write(BLOCK)
        for arguments in commands():
            run(*arguments)
            if arguments[0] == "backup":
                write(7 * BLOCK)
        run("backup", "--data-dir", "backup", "again")
    finally:
        for name in ("mnt", "mnt2"):
            if is_mounted(tmp_path / name):
                run("umount", name)


@pytest.mark.parametrize("word", ["new", "zeroed", "moved", "original"])
def test_kinds_are_in_the_document(word: str) -> None:
    assert f"| `{word}` |" in (CHECKOUT / "docs" / "live.md").read_text()
