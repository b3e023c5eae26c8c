"""What docs/flush.md and the README tell to do about flushing works as it is written there."""

import pytest

from tests.support.documents import run_commands, shell_blocks
from tests.support.mounting import Mount, is_mounted, shell

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


@pytest.mark.parametrize("commands", [*BLOCKS, *README], ids=lambda text: text.splitlines()[0][:40])
def test_documented_commands_run(commands: str, place: Mount) -> None:
    run_commands(place.directory, commands)
    if is_mounted(place.point) and "--dry-run --device" not in commands:
        changes = "--dry-run" not in commands or len(commands.splitlines()) > 1
        assert (place.stats()["Device disk flush writes"] != "0") == changes


def test_documents_show_commands() -> None:
    assert len(BLOCKS) >= 5
    assert len(README) == 1
