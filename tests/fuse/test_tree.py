"""What is under /devs equals upstream, for every kind of upstream and block size."""

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.loop_devices import loop_device
from tests.support.mounting import Mount

BLOCK = 4096
CONTENTS = {
    "tiny": os.urandom(1),
    "block": os.urandom(BLOCK),
    "block-and-a-half": os.urandom(BLOCK + BLOCK // 2),
    "large": os.urandom(3 << 20),
    "zeros": bytes(70_000),
    "name with spaces and \N{SNOWMAN}": b"text",
}

each_block_size = pytest.mark.parametrize("block_size", [512, 4096, 65536])
each_metadata = pytest.mark.parametrize("metadata", [None, "-"], ids=["disk", "memory"])


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def assert_shown(mount: Mount, contents: dict[str, bytes]) -> None:
    assert names(mount.devs) == sorted(contents)
    for name, content in contents.items():
        assert (mount.devs / name).stat().st_size == len(content)
        assert (mount.devs / name).is_file()
        assert (mount.devs / name).read_bytes() == content


def assert_writes_are_kept(mount: Mount, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        start = len(content) // 2
        new = os.urandom(len(content) - start)
        contents[name] = content[:start] + new
        with (mount.devs / name).open("r+b", buffering=0) as file:
            assert os.pwrite(file.fileno(), new, start) == len(new)
    assert_shown(mount, contents)


@each_block_size
@each_metadata
def test_files_and_links_to_them(mount: Mount, block_size: int, metadata: str | None) -> None:
    mount.metadata = metadata
    elsewhere = mount.directory / "elsewhere"
    elsewhere.write_bytes(os.urandom(123_456))
    (mount.upstream / "link").symlink_to(elsewhere)
    for name, content in CONTENTS.items():
        mount.add(name, content)
    contents = {**CONTENTS, "link": elsewhere.read_bytes()}
    before = {path.name: path.read_bytes() for path in mount.upstream.iterdir()}
    mount.start("--block-size", str(block_size))
    assert_shown(mount, contents)
    assert_writes_are_kept(mount, contents)
    if metadata is None:
        mount.restart()
        assert_shown(mount, contents)
    mount.umount()
    assert {path.name: path.read_bytes() for path in mount.upstream.iterdir()} == before


@pytest.mark.needs_root
@each_block_size
@each_metadata
def test_links_to_loop_devices(mount: Mount, block_size: int, metadata: str | None) -> None:
    mount.metadata = metadata
    contents = {"one": os.urandom(1 << 20), "two": os.urandom(6144), "file": os.urandom(9999)}
    mount.add("file", contents["file"])
    with ExitStack() as stack:
        for name in ("one", "two"):
            image = mount.directory / name
            image.write_bytes(contents[name])
            loop = stack.enter_context(loop_device(image))
            (mount.upstream / name).symlink_to(loop)
        mount.start("--block-size", str(block_size))
        assert_shown(mount, contents)
        before = {name: (mount.directory / name).read_bytes() for name in ("one", "two")}
        assert_writes_are_kept(mount, contents)
        mount.umount()
        after = {name: (mount.directory / name).read_bytes() for name in ("one", "two")}
        assert after == before


def test_device_added_later_appears_and_renumbers_nothing(mount: Mount) -> None:
    contents = {"b": os.urandom(10_000), "c": os.urandom(20_000)}
    for name, content in contents.items():
        mount.add(name, content)
    mount.start()
    assert_writes_are_kept(mount, contents)
    addresses = {key: value for key, value in mount.stats().items() if "first address" in key}
    mount.umount()
    contents["a"] = os.urandom(5000)
    mount.add("a", contents["a"])
    mount.start()
    assert_shown(mount, contents)
    assert addresses.items() <= mount.stats().items()


def test_metadata_in_a_directory_of_its_own(mount: Mount) -> None:
    mount.metadata = mount.directory / "metadata"
    mount.add("disk", bytes(4096))
    mount.start()
    (mount.devs / "disk").write_bytes(b"new")
    mount.restart()
    assert (mount.devs / "disk").read_bytes()[:3] == b"new"
    mount.umount()
    assert names(mount.metadata) == ["metadata.db"]
    assert names(mount.data) == ["cowdata", "cowdata.id"]


def test_clean_unmount_leaves_only_the_files_of_a_store(mount: Mount) -> None:
    mount.add("disk", bytes(100_000))
    mount.start()
    (mount.devs / "disk").write_bytes(os.urandom(50_000))
    mount.umount()
    assert names(mount.data) == ["cowdata", "cowdata.id", "metadata.db"]
    assert all(path.is_file() for path in mount.data.iterdir())
