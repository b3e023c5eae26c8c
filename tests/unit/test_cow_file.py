import errno
from pathlib import Path

import pytest

from tests.support.scripted_disk import ScriptedDisk
from thincow.errors import NoSpaceError, StoreFailedError
from thincow.store.cow_file import CowFile

MIB = 1 << 20


@pytest.fixture
def disk() -> ScriptedDisk:
    return ScriptedDisk()


@pytest.fixture
def file(tmp_path: Path, disk: ScriptedDisk) -> CowFile:
    (tmp_path / "cowdata").touch()
    return CowFile(disk, tmp_path, read_only=False)


def test_space_is_claimed_in_steps(file, disk):
    file.claim(512)
    file.claim(MIB)
    assert [(call.offset, call.length) for call in disk.of("claim")] == [(0, MIB)]
    file.claim(MIB + 1)
    assert disk.of("claim")[-1].offset == MIB
    file.claim(2000 * MIB)
    file.claim(2000 * MIB + 1)
    assert disk.of("claim")[-1].length <= 64 * MIB


def test_claim_is_content_with_less_when_space_is_short(file, disk):
    disk.fail("claim", "cowdata", errno.ENOSPC, times=1)
    file.claim(512)
    assert disk.of("claim")[-1].length == 512


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("kind", ["claim", "write"])
def test_full_filesystem_is_a_lack_of_space(file, disk, kind, code):
    disk.fail(kind, "cowdata", code)
    with pytest.raises(NoSpaceError):
        file.claim(512) if kind == "claim" else file.write(b"1", 0)


@pytest.mark.parametrize("kind", ["claim", "write"])
def test_other_errors_are_passed_on(file, disk, kind):
    disk.fail(kind, "cowdata")
    with pytest.raises(OSError, match="Input/output"):
        file.claim(512) if kind == "claim" else file.write(b"1", 0)


def test_filesystem_that_cannot_claim_or_punch_does_without(file, disk):
    for kind in ("claim", "punch"):
        disk.fail(kind, "cowdata", errno.EOPNOTSUPP)
    for _ in range(2):
        file.claim(512)
        file.write(b"1" * 512, 0)
        file.punch(0, 512)
    assert len(disk.of("claim")) == 1
    assert len(disk.of("punch")) == 1


def test_file_is_unsynced_after_a_write_even_a_failed_one(file, disk):
    assert not file.unsynced
    with disk.failing("write", "cowdata"), pytest.raises(OSError, match="Input/output"):
        file.write(b"1", 0)
    assert file.unsynced


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_sync_that_fails_is_no_matter_of_space(file, disk, code):
    disk.fail("sync", "cowdata", code)
    with pytest.raises(StoreFailedError):
        file.sync()


def test_truncate_gives_up_what_was_claimed(file, disk, tmp_path):
    file.claim(512)
    file.truncate(100)
    assert (tmp_path / "cowdata").stat().st_size == 100
    file.claim(512)
    assert disk.of("claim")[-1].offset == 100
    file.truncate(0)
    disk.calls.clear()
    file.truncate(0)
    assert disk.calls == []


def test_contents_survive_a_punch_beside_them(file, tmp_path):
    file.write(b"1" * 12288, 0)
    file.punch(4096, 4096)
    assert (tmp_path / "cowdata").read_bytes() == b"1" * 4096 + bytes(4096) + b"1" * 4096
