"""Flushes beside a client that does what is hardest for them."""

import os
import random
from pathlib import Path

import pytest

from tests.support.faulty_disk import faulty_disk
from tests.support.flushing import command, shown, state, upstream, write
from tests.support.hard_client import HardClient
from tests.support.mounting import Mount

BLOCK = 4096
BLOCKS = 48
OPERATIONS = 400


@pytest.mark.parametrize("slow", [False, True], ids=["quick", "slow-reads"])
@pytest.mark.parametrize("options", [(), ("-o", "direct_io")], ids=["cached", "direct_io"])
def test_flush_beside_a_hard_client_ends_right(
    mount: Mount, tmp_path: Path, options: tuple[str, ...], slow: bool
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    for name in ("backing", "faulty"):
        (tmp_path / name).mkdir()
    contents = {name: os.urandom(BLOCKS * BLOCK) for name in "ab"}
    for name, content in contents.items():
        (tmp_path / "backing" / name).write_bytes(content)
    with faulty_disk(tmp_path / "backing", tmp_path / "faulty") as disk:
        for name in contents:
            (mount.upstream / name).symlink_to(disk.path(name))
        if slow:
            disk.fail("slow")
        mount.start(*options)
        # Cycles and chains from the beginning on.
        for name in contents:
            (mount.devs / name).read_bytes()
        write(mount, "a", contents["b"])
        write(mount, "b", contents["a"][BLOCK:])
        flushes = 0
        with HardClient.at_work(mount, BLOCK, seed, OPERATIONS // (4 if slow else 1)) as client:
            while client.is_working:
                assert command(mount, ("full\n", "max\n", "7\n")[flushes % 3]) == 0
                flushes += 1
            expected = client.wait()
        assert shown(mount) == expected
        written = mount.stats()["Device a flush writes"]
        assert command(mount, "full\n") == 0
        assert state(mount) == "clean"
        assert shown(mount) == expected
        assert upstream(mount) == expected
        print(f"{flushes} flushes beside the client, {written} blocks of a written by them")
        mount.umount()
        mount.start()
        assert shown(mount) == expected
        mount.umount()
