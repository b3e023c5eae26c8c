import errno
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.support.loop_devices import loop_device
from thincow.errors import ConfigurationError
from thincow.store.disk import Disk
from thincow.store.upstream import (
    Upstream,
    refuse_store_among_upstreams,
    require_addressable,
    scan,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "upstream"
    path.mkdir()
    return path


def refusal(directory: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        scan(directory)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_scan_finds_files_and_links_sorted_by_name(directory, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"x" * 100)
    (directory / "b").symlink_to("../elsewhere")
    (directory / "c").write_bytes(b"y" * 6144)
    (directory / "a").touch()
    found = scan(directory)
    assert [(f.name, f.size_bytes, f.type) for f in found] == [
        ("a", 0, "file"),
        ("b", 100, "file"),
        ("c", 6144, "file"),
    ]
    link = found[1]
    status = (tmp_path / "elsewhere").stat()
    assert link.path == directory / "b"
    assert link.resolved_path == (tmp_path / "elsewhere").resolve()
    assert (link.st_dev, link.inode, link.mtime_ns) == (
        status.st_dev,
        status.st_ino,
        status.st_mtime_ns,
    )


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (1, 1), (4096, 1), (6144, 2)])
def test_upstream_length_counts_a_partial_last_block(directory, size, blocks):
    (directory / "a").write_bytes(bytes(size))
    assert scan(directory)[0].length_blocks(4096) == blocks


def test_scan_refuses_a_missing_empty_or_wrong_directory(directory):
    assert "is empty" in refusal(directory)
    assert "No such file" in refusal(directory / "missing")
    file = directory / "file"
    file.touch()
    assert "Not a directory" in refusal(file)


def test_scan_refuses_other_things_by_name(directory):
    entry = directory / "entry"
    makers = {
        "a directory": entry.mkdir,
        "a pipe": lambda: os.mkfifo(entry),
        "a character device": lambda: entry.symlink_to("/dev/null"),
        "No such file": lambda: entry.symlink_to("missing"),
        "circle": lambda: entry.symlink_to("entry"),
    }
    for words, make in makers.items():
        make()
        text = refusal(directory)
        assert "entry" in text
        assert words in text
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        else:
            entry.rmdir()


def test_scan_refuses_a_socket(directory, monkeypatch):
    monkeypatch.chdir(directory)  # the length of a socket's path is limited
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("entry")
        assert "entry is a socket" in refusal(directory)


@pytest.mark.parametrize(
    "name", [b"new\nline", b"tab\t", b"\x7f", "\x85".encode(), b"not utf8 \xff"]
)
def test_scan_refuses_names_that_cannot_be_shown(directory, name):
    (directory / os.fsdecode(name)).touch()
    assert "control characters" in refusal(directory)


def test_scan_accepts_unusual_names(directory):
    names = ["  spaces ", "-dash", "ünïcode", "💾", ".hidden"]
    for name in names:
        (directory / name).touch()
    assert [file.name for file in scan(directory)] == sorted(names)


def test_scan_names_an_unreadable_device(directory):
    disk = Mock(spec=Disk)
    disk.open.side_effect = PermissionError(errno.EACCES, "Permission denied")
    (directory / "secret").touch()
    with pytest.raises(ConfigurationError, match="upstream device secret: Permission denied"):
        scan(directory, disk)


def test_upstream_is_opened_for_reading_only(directory):
    (directory / "a").write_bytes(b"content")
    upstream = Upstream(Disk(), scan(directory)[0])
    assert upstream.size_bytes == 7
    assert Disk().read(upstream.fd, 7, 0) == b"content"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(upstream.fd, b"x", 0)
    upstream.close()
    upstream.close()


def test_upstream_replaced_or_grown_since_the_scan_is_refused(directory):
    (directory / "a").write_bytes(b"content")
    found = scan(directory)[0]
    with (directory / "a").open("ab") as file:
        file.write(b"more")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ConfigurationError, match="a was changed while"):
        Upstream(Disk(), found)
    (directory / "new").write_bytes(b"content")
    (directory / "new").rename(directory / "a")
    with pytest.raises(ConfigurationError, match="a was changed while"):
        Upstream(Disk(), found)
    (directory / "a").unlink()
    with pytest.raises(ConfigurationError, match="cannot read upstream device a"):
        Upstream(Disk(), found)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_upstream_with_too_many_blocks_is_refused(directory):
    with (directory / "big").open("wb") as file:
        file.truncate(512 << 30)
    files = scan(directory)
    require_addressable(files, 512)
    oversized = [replace(file, size_bytes=(512 << 40) + 1) for file in files]
    require_addressable(oversized, 1024)
    with pytest.raises(ConfigurationError, match=r"big has more than 2\^40 blocks of 512"):
        require_addressable(oversized, 512)


def test_store_among_upstreams_is_refused(directory, tmp_path):
    (directory / "a").touch()
    files = scan(directory)
    (tmp_path / "link").symlink_to("upstream")
    for inside in (directory, directory / "sub" / "data", tmp_path / "link"):
        with pytest.raises(ConfigurationError, match="upstream"):
            refuse_store_among_upstreams([tmp_path / "data", inside], directory, files)
    refuse_store_among_upstreams([tmp_path, tmp_path / "upstream2"], directory, files)


@pytest.mark.parametrize("name", ["cowdata", "cowdata.id", "metadata.db", "metadata.db-wal"])
def test_store_file_as_upstream_is_refused(directory, tmp_path, name):
    (tmp_path / name).touch()
    (directory / "sneaky").symlink_to(tmp_path / name)
    with pytest.raises(ConfigurationError, match="sneaky is a file of the store"):
        refuse_store_among_upstreams([tmp_path], directory, scan(directory))
    refuse_store_among_upstreams([tmp_path / "other"], directory, scan(directory))


@pytest.mark.needs_root
def test_scan_follows_links_to_block_devices(directory, tmp_path):
    (tmp_path / "image").write_bytes(b"z" * 10240)
    with loop_device(tmp_path / "image") as loop:
        (directory / "disk").symlink_to(loop)
        found = scan(directory)[0]
        assert (found.type, found.size_bytes) == ("block", 10240)
        assert (found.inode, found.mtime_ns) == (None, None)
        assert found.st_rdev == loop.stat().st_rdev
        upstream = Upstream(Disk(), found)
        assert Disk().read(upstream.fd, 10240, 0) == b"z" * 10240
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(upstream.fd, b"x", 0)
        upstream.close()


@pytest.mark.needs_root
def test_another_disk_under_the_same_number_is_told_apart(tmp_path):
    def medium(path: Path) -> int | None:
        fd = os.open(path, os.O_RDONLY)
        try:
            return Disk().medium(fd)
        finally:
            os.close(fd)

    for name in ("one", "other"):
        (tmp_path / name).write_bytes(bytes(10240))
    with loop_device(tmp_path / "one") as loop:
        first = medium(loop)
        assert medium(loop) == first
        assert medium(tmp_path / "one") is None
    if subprocess.run(["losetup", loop, tmp_path / "other"], check=False).returncode != 0:
        pytest.skip("somebody else took the loop device meanwhile")
    try:
        assert first is None or medium(loop) not in (None, first)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
