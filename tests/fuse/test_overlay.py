"""Overlays: one file as another that can be changed, and how they end."""

import errno
import fcntl
import json
import mmap
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.loop_devices import loop_device
from tests.support.mounting import Mount, is_mounted, run_thincow, shell
from tests.support.overlays import Overlay
from thincow.mount.overlay import discard
from thincow.store.disk import Disk

BLOCK = 4096
MIB = 1 << 20
CONTENT = os.urandom(5 * BLOCK + 1000)


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[Overlay]:
    """An original with some content, not shown yet."""
    made = Overlay(tmp_path / "files")
    made.original.write_bytes(CONTENT)
    yield made
    made.close()


def remove_until(overlay: Overlay, calls: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Remove the store until so many files were removed or renamed; tell whether that cut it."""

    class CutError(Exception):
        pass

    done = 0

    def counted(right: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            nonlocal done
            if done == calls:
                raise CutError
            done += 1
            right(*arguments)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Disk, "unlink"), (Disk, "rename"), (Path, "unlink")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            discard(overlay.data, overlay.data, only_clean=True)
        except CutError:
            return True
    return False


class TestLife:
    def test_changes_are_kept_and_the_original_stays(self, overlay: Overlay) -> None:
        overlay.start()
        assert overlay.virtual.read_bytes() == CONTENT
        with overlay.virtual.open("r+b") as file:
            file.write(b"changed")
        expected = b"changed" + CONTENT[7:]
        overlay.restart()
        assert overlay.virtual.read_bytes() == expected
        os.sync()
        overlay.kill()
        overlay.start()
        assert overlay.virtual.read_bytes() == expected
        assert overlay.original.read_bytes() == CONTENT
        overlay.umount()
        assert overlay.virtual.read_bytes() == b""
        assert sorted(path.name for path in overlay.directory.iterdir()) == [
            "log",
            "original",
            "virtual",
            "virtual.thincow",
        ]
        overlay.check()

    def test_commit_makes_the_original_equal_and_removes_the_rest(self, overlay: Overlay) -> None:
        overlay.start()
        with overlay.virtual.open("r+b") as file:
            file.write(b"changed")
            file.seek(MIB)
            file.write(b"behind")
        expected = overlay.virtual.read_bytes()
        done = overlay.commit()
        assert done.returncode == 0, done.stderr
        assert overlay.original.read_bytes() == expected
        assert sorted(path.name for path in overlay.directory.iterdir()) == ["log", "original"]

    def test_commit_of_a_cut_file(self, overlay: Overlay) -> None:
        overlay.start()
        os.truncate(overlay.virtual, BLOCK + 5)
        assert overlay.commit().returncode == 0
        assert overlay.original.read_bytes() == CONTENT[: BLOCK + 5]

    def test_commit_of_what_is_not_mounted(self, overlay: Overlay) -> None:
        overlay.virtual.touch()
        overlay.start()
        overlay.virtual.write_bytes(b"new content")
        overlay.umount()
        assert overlay.commit().returncode == 0
        assert overlay.original.read_bytes() == b"new content"
        assert not overlay.data.exists()
        assert overlay.virtual.exists(), "it was there before"

    def test_commit_after_the_process_died(self, overlay: Overlay) -> None:
        overlay.start()
        with overlay.virtual.open("r+b", buffering=0) as file:
            file.write(b"synced")
            os.fsync(file.fileno())
        overlay.kill()
        done = overlay.commit()
        assert done.returncode == 0, done.stderr
        assert overlay.original.read_bytes() == b"synced" + CONTENT[6:]
        assert not overlay.virtual.exists()

    def test_commit_is_refused_while_somebody_uses_it(self, overlay: Overlay) -> None:
        overlay.start()
        with overlay.virtual.open("r+b") as file:
            file.write(b"changed")
            file.flush()
            done = overlay.commit()
            assert done.returncode == 1
            assert f"pid {os.getpid()}" in done.stderr
            assert overlay.original.read_bytes() == CONTENT
        assert overlay.commit().returncode == 0

    @pytest.mark.needs_root
    def test_commit_that_fails_keeps_the_changes(self, overlay: Overlay) -> None:
        overlay.start()
        overlay.virtual.write_bytes(b"changed")
        with loop_device(overlay.original) as loop:
            done = overlay.commit()
            assert done.returncode == 1
            assert str(loop) in done.stderr
            assert done.stderr.count("\n") == 1
        assert overlay.original.read_bytes() == CONTENT
        overlay.start()
        assert overlay.virtual.read_bytes() == b"changed"

    @pytest.mark.parametrize("delay_s", [0.3, 0.5, 0.7])
    def test_commit_that_is_killed_can_be_repeated(self, overlay: Overlay, delay_s: float) -> None:
        overlay.original.write_bytes(os.urandom(16 * MIB))
        overlay.start()
        expected = os.urandom(24 * MIB)
        overlay.virtual.write_bytes(expected)
        overlay.umount()
        command = [sys.executable, "-m", "thincow", "commit", str(overlay.virtual)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            time.sleep(delay_s)
            process.kill()
        if process.returncode != 0 and overlay.data.exists():
            done = overlay.commit()
            assert done.returncode == 0, done.stderr
        assert overlay.original.read_bytes() == expected

    @pytest.mark.parametrize("calls", [1, 2, 4, 5, 6])
    def test_removal_that_is_cut_is_finished_by_the_next_command(
        self, overlay: Overlay, calls: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        overlay.start()
        overlay.virtual.write_bytes(b"changed")
        overlay.umount()
        options = ("--offline", "--data-dir", overlay.data, "--upstream", overlay.original)
        assert run_thincow("flush", *options).returncode == 0
        if not remove_until(overlay, calls, monkeypatch):
            assert calls > 4
            return
        if calls % 2:
            overlay.start()
            assert overlay.virtual.read_bytes() == b"changed"
            overlay.umount("--discard")
        else:
            done = overlay.commit()
            assert done.returncode == 0, done.stderr
        assert overlay.original.read_bytes() == b"changed"
        assert sorted(path.name for path in overlay.directory.iterdir()) == ["log", "original"]

    def test_original_that_somebody_changed_is_not_written(self, overlay: Overlay) -> None:
        overlay.start()
        overlay.virtual.write_bytes(b"changed")
        overlay.umount()
        other = CONTENT[:-1] + b"?"
        overlay.original.write_bytes(other)
        done = overlay.commit()
        assert done.returncode == 1
        assert "was written to" in done.stderr
        assert done.stderr.count("\n") == 1
        assert overlay.original.read_bytes() == other
        overlay.start("--force")
        assert overlay.virtual.read_bytes() == b"changed"

    def test_discard_forgets_the_changes(self, overlay: Overlay) -> None:
        overlay.start()
        overlay.virtual.write_bytes(b"changed")
        overlay.umount("--discard")
        assert sorted(path.name for path in overlay.directory.iterdir()) == ["log", "original"]
        assert overlay.original.read_bytes() == CONTENT

    def test_discard_of_what_is_not_mounted(self, overlay: Overlay) -> None:
        overlay.start()
        overlay.umount()
        (overlay.data / "notes").write_text("not thincow's")
        done = run_thincow("umount", "--discard", overlay.virtual)
        assert done.returncode == 0, done.stderr
        assert [path.name for path in overlay.data.iterdir()] == ["notes"]
        assert not overlay.virtual.exists()

    def test_temporary_overlay_is_gone_after_it(self, overlay: Overlay) -> None:
        overlay.start("--temporary")
        overlay.virtual.write_bytes(b"changed")
        overlay.umount()
        assert sorted(path.name for path in overlay.directory.iterdir()) == ["log", "original"]
        assert overlay.original.read_bytes() == CONTENT

    def test_discard_removes_the_store_of_a_mount_as_well(self, mount: Mount) -> None:
        mount.add("disk", CONTENT)
        mount.metadata = mount.directory / "metadata"
        mount.start()
        done = run_thincow("umount", "--discard", mount.point)
        assert done.returncode == 0, done.stderr
        assert not mount.data.exists()
        assert not (mount.directory / "metadata").exists()
        assert (mount.upstream / "disk").read_bytes() == CONTENT

    def test_options_of_mount_hold(self, overlay: Overlay, tmp_path: Path) -> None:
        data = tmp_path / "elsewhere"
        overlay.data = data
        options = ("--data-dir", data, "--block-size", "512", "--max-cow-blocks", "2")
        overlay.start(*options)
        with overlay.virtual.open("r+b", buffering=0) as file:
            file.write(bytes(1024))
            with pytest.raises(OSError, match="No space left"):
                file.write(os.urandom(8 * 512))
        overlay.umount()
        assert data.is_dir()
        assert not overlay.virtual.with_name("virtual.thincow").exists()
        overlay.start("--data-dir", data, "-R")
        with pytest.raises(OSError, match="Read-only"):
            overlay.virtual.write_bytes(b"x")
        overlay.umount()
        done = overlay.commit("--data-dir", data)
        assert done.returncode == 0, done.stderr
        assert overlay.original.read_bytes()[:1024] == bytes(1024)

    def test_overlay_in_memory_leaves_nothing(self, overlay: Overlay) -> None:
        overlay.start("--metadata-dir", "-")
        overlay.virtual.write_bytes(b"changed")
        overlay.umount()
        assert not overlay.virtual.exists()
        assert overlay.original.read_bytes() == CONTENT


class TestFile:
    @pytest.mark.parametrize("options", [(), ("-o", "direct_io")], ids=["cached", "direct_io"])
    def test_it_behaves_like_a_file(self, overlay: Overlay, options: tuple[str, ...]) -> None:
        overlay.start(*options)
        file = overlay.virtual
        shell("sh", "-c", f"cat {overlay.original} {overlay.original} > {file}")
        assert file.read_bytes() == CONTENT * 2
        shell("sh", "-c", f"printf end >> {file}")
        assert file.read_bytes() == CONTENT * 2 + b"end"
        shell("cp", overlay.original, file)
        assert file.read_bytes() == CONTENT
        with file.open("wb"):
            assert file.stat().st_size == 0
        with file.open("r+b", buffering=0) as first, file.open("rb", buffering=0) as second:
            os.pwrite(first.fileno(), b"seen", 3 * BLOCK)
            assert os.pread(second.fileno(), 9, 3 * BLOCK - 2) == b"\0\0seen"
        with pytest.raises(FileExistsError):
            os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.close(os.open(file, os.O_RDONLY | os.O_CREAT))

    def test_attributes_are_those_of_the_original_until_changed(self, overlay: Overlay) -> None:
        overlay.original.chmod(0o640)
        os.utime(overlay.original, ns=(10**18, 10**18 + 5))
        overlay.start()
        before = overlay.original.stat()
        found = overlay.virtual.stat()
        assert stat.S_ISREG(found.st_mode)
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_nlink"):
            assert getattr(found, name) == getattr(before, name), name
        overlay.virtual.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(overlay.virtual, 12345, 54321)
        os.utime(overlay.virtual, ns=(1, 10**18))
        changed = overlay.virtual.stat()
        overlay.restart()
        found = overlay.virtual.stat()
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
            assert getattr(found, name) == getattr(changed, name), name
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert overlay.original.stat() == before

    def test_writing_changes_the_time(self, overlay: Overlay) -> None:
        os.utime(overlay.original, ns=(1, 10**18))
        overlay.start()
        before = time.time_ns()
        with overlay.virtual.open("r+b") as file:
            file.write(b"x")
        time.sleep(1.1)  # the kernel may keep attributes for a second
        found = overlay.virtual.stat().st_mtime_ns
        assert found >= before
        overlay.restart()
        assert overlay.virtual.stat().st_mtime_ns == found

    def test_space_is_told_roughly(self, overlay: Overlay) -> None:
        with overlay.original.open("wb") as file:
            file.truncate(64 * MIB)
        overlay.start()

        def taken() -> int:
            time.sleep(1.1)  # the kernel may keep attributes for a second
            return overlay.virtual.stat().st_blocks * 512

        assert taken() < MIB
        os.truncate(overlay.virtual, 1 << 40)
        assert taken() < MIB
        with overlay.virtual.open("r+b") as file:
            file.write(os.urandom(8 * MIB))
        assert 8 * MIB <= taken() < 10 * MIB
        os.truncate(overlay.virtual, MIB)
        assert taken() <= MIB
        assert os.statvfs(overlay.virtual).f_bavail > 0

    def test_locks_keep_others_out(self, overlay: Overlay) -> None:
        overlay.start()
        script = (
            "import fcntl, sys; f = open(sys.argv[1], 'r+b')\n"
            "for lock in (fcntl.lockf, fcntl.flock):\n"
            "    try: lock(f, fcntl.LOCK_EX | fcntl.LOCK_NB); print('got it')\n"
            "    except OSError: print('refused')\n"
        )
        with overlay.virtual.open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)
            with overlay.virtual.open("r+b") as other:
                fcntl.flock(other, fcntl.LOCK_EX)
                found = shell(sys.executable, "-c", script, overlay.virtual).split("\n")
        assert found[:2] == ["refused", "refused"]
        assert shell(sys.executable, "-c", script, overlay.virtual).split() == ["got", "it"] * 2

    def test_mappings_shared_and_private(self, overlay: Overlay) -> None:
        overlay.start()
        with overlay.virtual.open("r+b") as file:
            with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private:
                private[:4] = b"mine"
            with mmap.mmap(file.fileno(), 0) as shared:
                shared[BLOCK : BLOCK + 4] = b"ours"
                shared.flush()
        expected = CONTENT[:BLOCK] + b"ours" + CONTENT[BLOCK + 4 :]
        assert overlay.virtual.read_bytes() == expected
        overlay.restart()
        assert overlay.virtual.read_bytes() == expected

    def test_synced_mapping_survives_a_kill_of_all(self, overlay: Overlay) -> None:
        overlay.start()
        script = (
            "import mmap, os, sys, time; f = open(sys.argv[1], 'r+b')\n"
            "m = mmap.mmap(f.fileno(), 0)\n"
            "m[10:16] = b'synced'; m.flush(); print('done', flush=True)\n"
            "m[20:23] = b'not'; time.sleep(60)\n"
        )
        command = [sys.executable, "-c", script, str(overlay.virtual)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"done\n"
            pid = overlay.pid
            os.kill(client.pid, signal.SIGSTOP)
            os.kill(pid, signal.SIGKILL)
            client.kill()
        overlay.start()
        assert overlay.virtual.read_bytes()[10:16] == b"synced"
        overlay.umount()
        overlay.check()


class TestFlush:
    def test_attribute_takes_and_gives_the_words_of_flush(self, overlay: Overlay) -> None:
        overlay.start()
        assert overlay.state == "clean"
        overlay.virtual.write_bytes(b"new")
        assert overlay.state == "ready"
        assert os.listxattr(overlay.virtual) == []
        os.setxattr(overlay.virtual, "user.thincow.flush", b"full")
        deadline = time.monotonic() + 30
        while overlay.state != "clean":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert overlay.original.read_bytes() == b"new"
        for name, value, code in [
            ("user.thincow.flush", b"nonsense", errno.EINVAL),
            ("user.other", b"x", errno.ENOTSUP),
        ]:
            with pytest.raises(OSError) as error:  # noqa: PT011 - its errno is looked at
                os.setxattr(overlay.virtual, name, value)
            assert error.value.errno == code
        with pytest.raises(OSError) as error:  # noqa: PT011 - its errno is looked at
            os.getxattr(overlay.virtual, "user.other")
        assert error.value.errno == errno.ENODATA

    def test_command_flushes_and_the_overlay_goes_on(self, overlay: Overlay) -> None:
        overlay.start()
        with overlay.virtual.open("r+b") as file:
            file.write(b"changed")
            file.truncate(3 * BLOCK)
        expected = overlay.virtual.read_bytes()
        done = run_thincow("flush", "--dry-run", "--json", overlay.virtual)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["devices"][0]["write_bytes"] == BLOCK
        done = run_thincow("flush", overlay.virtual)
        assert done.returncode == 0, done.stderr
        assert overlay.original.read_bytes() == expected
        with overlay.virtual.open("ab") as file:
            file.write(b"more")
        assert overlay.virtual.read_bytes() == expected + b"more"
        overlay.restart()
        assert overlay.virtual.read_bytes() == expected + b"more"
        assert overlay.commit().returncode == 0
        assert overlay.original.read_bytes() == expected + b"more"

    def test_looks_at_the_store_need_it_unmounted(self, overlay: Overlay) -> None:
        overlay.start()
        with overlay.virtual.open("r+b") as file:
            file.write(b"changed")
        done = run_thincow("diff", overlay.virtual)
        assert done.returncode == 1
        assert "unmount it first" in done.stderr
        overlay.umount()
        done = run_thincow("diff", "--data-dir", overlay.data, "--upstream", overlay.original)
        assert done.returncode == 0, done.stderr
        assert "original\t0\t4096\tnew" in done.stdout


class TestBadInput:
    def refused(self, overlay: Overlay, words: str, *options: str | Path) -> None:
        before = sorted(overlay.directory.rglob("*"))
        done = overlay.try_start(*options)
        assert done.returncode == 1
        assert done.stderr.startswith("thincow: ")
        assert done.stderr.count("\n") == 1
        assert words in done.stderr
        made = {path.name for path in overlay.directory.rglob("*")} - {p.name for p in before}
        assert made <= {"log"}
        assert not is_mounted(overlay.virtual)

    def test_overlay_of_itself(self, overlay: Overlay) -> None:
        overlay.virtual = overlay.original
        self.refused(overlay, "of itself")
        overlay.virtual = overlay.directory / "link"
        overlay.virtual.symlink_to(overlay.original)
        self.refused(overlay, "of itself")

    def test_virtual_file_with_content(self, overlay: Overlay) -> None:
        overlay.virtual.write_bytes(b"precious")
        self.refused(overlay, "8 bytes of its own")
        assert overlay.virtual.read_bytes() == b"precious"

    def test_virtual_file_that_is_no_file(self, overlay: Overlay) -> None:
        overlay.virtual.mkdir()
        self.refused(overlay, "not a regular file")

    def test_virtual_file_nowhere(self, overlay: Overlay) -> None:
        overlay.virtual = overlay.directory / "missing" / "virtual"
        self.refused(overlay, "missing does not exist")

    def test_original_that_is_missing(self, overlay: Overlay) -> None:
        overlay.original.unlink()
        self.refused(overlay, "No such file")

    def test_original_that_is_a_directory(self, overlay: Overlay) -> None:
        overlay.original.unlink()
        overlay.original.mkdir()
        self.refused(overlay, "is a directory")

    def test_original_in_the_data_directory(self, overlay: Overlay) -> None:
        overlay.data.mkdir()
        overlay.original = overlay.original.rename(overlay.data / "original")
        self.refused(overlay, "lies in the data directory")

    def test_virtual_file_in_the_data_directory(self, overlay: Overlay) -> None:
        self.refused(overlay, "lies in the data directory", "--data-dir", overlay.directory)

    def test_original_that_is_being_written(self, overlay: Overlay) -> None:
        with overlay.original.open("r+b"):
            self.refused(overlay, f"pid {os.getpid()}")
            overlay.start("--force")

    def test_overlay_that_is_mounted_already(self, overlay: Overlay) -> None:
        overlay.start()
        done = overlay.try_start()
        assert done.returncode == 1
        assert "in use" in done.stderr

    def test_store_that_is_used_by_another_overlay(self, overlay: Overlay) -> None:
        overlay.start()
        pid = overlay.pid
        other = Overlay(overlay.directory)
        other.virtual = overlay.directory / "other"
        self.refused(other, f"process {pid}", "--data-dir", overlay.data)

    def test_store_of_another_original(self, overlay: Overlay) -> None:
        overlay.start()
        overlay.umount()
        overlay.original.write_bytes(os.urandom(len(CONTENT)))
        done = overlay.try_start()
        assert done.returncode == 1
        assert "was written to" in done.stderr
        assert "--force" in done.stderr

    def test_temporary_in_memory(self, overlay: Overlay) -> None:
        done = overlay.try_start("--temporary", "--metadata-dir", "-")
        assert done.returncode == 2

    def test_commit_and_discard_of_what_is_no_overlay(self, overlay: Overlay, mount: Mount) -> None:
        for command in (("commit",), ("umount", "--discard")):
            done = run_thincow(*command, overlay.original)
            assert (done.returncode, done.stderr.count("\n")) == (3, 1)
            assert "holds no overlay" in done.stderr
        mount.add("disk", CONTENT)
        mount.start()
        done = run_thincow("commit", mount.point)
        assert done.returncode == 1
        assert "not an overlay" in done.stderr
        assert (mount.devs / "disk").read_bytes() == CONTENT
