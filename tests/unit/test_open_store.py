"""Opening: everything is checked first, and what is refused is left as it was."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.directories import photograph
from tests.support.engines import EngineStore, NewStore, letters
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine import open_store
from thincow.engine.engine import open_engine
from thincow.errors import (
    ConfigurationError,
    CorruptStoreError,
    StoreInUseError,
    ThincowError,
    UpstreamChangedError,
)


@pytest.fixture
def closed(store: EngineStore) -> EngineStore:
    """A store that was written to and closed."""
    store.add("a", "abcd")
    store.add("b", "mnop")
    store.open()
    store.write_blocks("a", 1, "xy")
    store.close()
    return store


def expect_refused(
    store: EngineStore, error: type[ThincowError], words: str, **options: object
) -> None:
    """Opening fails with one line of text and leaves every file as it is."""
    before = photograph(store.root)
    chosen = dict(store.options)
    with pytest.raises(error, match=words) as raised:
        store.open(**options)
    assert "\n" not in str(raised.value)
    assert photograph(store.root) == before
    store.options = chosen


def no_upstream(store: EngineStore) -> None:
    (store.upstream_dir / "a").unlink()
    store.upstream_dir.rmdir()


def empty_upstream(store: EngineStore) -> None:
    (store.upstream_dir / "a").unlink()


def directory_upstream(store: EngineStore) -> None:
    (store.upstream_dir / "sub").mkdir()


def data_is_a_file(store: EngineStore) -> None:
    store.data_dir.write_text("not a directory")


def data_has_no_parent(store: EngineStore) -> None:
    store.data_dir = store.root / "absent" / "data"


def metadata_has_no_parent(store: EngineStore) -> None:
    store.metadata = "apart"
    store.root = store.root / "absent"


def data_is_upstream(store: EngineStore) -> None:
    store.data_dir = store.upstream_dir


def data_is_inside_upstream(store: EngineStore) -> None:
    store.data_dir = store.upstream_dir / "data"


def upstream_is_the_store(store: EngineStore) -> None:
    store.data_dir.mkdir()
    (store.data_dir / "cowdata").touch()
    (store.upstream_dir / "b").symlink_to(store.data_dir / "cowdata")


def upstream_twice(store: EngineStore) -> None:
    (store.upstream_dir / "b").symlink_to("a")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_upstream, "upstream"),
        (empty_upstream, "is empty"),
        (directory_upstream, "sub is a directory"),
        (data_is_a_file, "is not a directory"),
        (data_has_no_parent, "does not exist"),
        (metadata_has_no_parent, "does not exist"),
        (data_is_upstream, "both store and upstream"),
        (data_is_inside_upstream, "inside the upstream"),
        (upstream_is_the_store, "file of the store itself"),
        (upstream_twice, "b"),
    ],
)
def test_new_store_that_cannot_be_is_not_begun(
    store: EngineStore, spoil: Callable[[EngineStore], None], words: str
):
    store.add("a", "abcd")
    root = store.root
    spoil(store)
    before = photograph(root)
    with pytest.raises(ConfigurationError, match=words):
        store.open()
    assert photograph(root) == before


def test_temporary_directory_must_be_writable(store, tmp_path):
    store.add("a", "abcd")
    expect_refused(store, ConfigurationError, "temporary", temp_dir=tmp_path / "absent")


@pytest.mark.parametrize("times", [1, 2])
def test_upstream_that_changed_is_refused(closed, times):
    path = closed.upstream_dir / "b"
    for _ in range(times):
        path.write_bytes(letters("Mnop"))
        os.utime(path, ns=(0, 1))
    expect_refused(closed, UpstreamChangedError, "upstream device b was written to")
    closed.open(force=True)
    assert closed.read_blocks("a") == "axyd"
    closed.restart(force=False)


@pytest.mark.parametrize("characters", ["mno", "mnopq"])
def test_upstream_of_another_size_is_refused(closed, characters):
    (closed.upstream_dir / "b").write_bytes(letters(characters))
    expect_refused(closed, UpstreamChangedError, "upstream device b had 2048 bytes")
    closed.open(force=True)
    assert closed.read_blocks("b") == characters


def test_upstream_that_is_missing_is_refused(closed):
    (closed.upstream_dir / "b").rename(closed.root / "b")
    expect_refused(closed, UpstreamChangedError, "upstream device b is missing")


def test_upstream_replaced_by_an_equal_one_is_refused(closed):
    path = closed.upstream_dir / "b"
    content = path.read_bytes()
    path.rename(closed.root / "b")
    path.write_bytes(content)
    expect_refused(closed, UpstreamChangedError, "upstream device b is another file")


def test_upstream_that_changed_secretly_is_refused(closed):
    path = closed.upstream_dir / "b"
    status = path.stat()
    path.write_bytes(letters("Mnop"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    expect_refused(closed, UpstreamChangedError, "upstream device b has other contents")


def test_device_may_be_added_later_and_nothing_is_renumbered(closed):
    with_two = {device.name: device.id for device in _devices(closed)}
    closed.add("Z", "uvw")
    closed.open()
    ids = {device.name: device.id for device in closed.engine.devices}
    assert ids == {**with_two, "Z": 3}
    closed.write_blocks("Z", 0, "xy")
    closed.restart()
    assert closed.read_blocks("a") == "axyd"
    assert closed.read_blocks("Z") == "xyw"


def _devices(store: EngineStore) -> tuple:
    store.open()
    devices = store.engine.devices
    store.close()
    return devices


def test_second_opener_is_refused_by_the_pid_of_the_first(closed):
    closed.open()
    with pytest.raises(StoreInUseError, match=str(os.getpid())):
        closed.another().open()
    closed.write_blocks("a", 0, "z")


@pytest.mark.parametrize("which", ["data_dir", "database"])
def test_second_opener_is_refused_also_when_one_directory_is_another(
    new_store: NewStore, which: str
):
    store, other = (new_store(name, metadata="apart") for name in ("store", "other"))
    for one in (store, other):
        one.add("a", "abcd")
    store.open()
    if which == "data_dir":
        other.data_dir = store.data_dir
    else:
        (other.root / "metadata").symlink_to(store.root / "metadata")
    other.must_be_sound = False
    with pytest.raises(ThincowError):
        other.open()
    store.write_blocks("a", 0, "x")


def test_lock_goes_with_a_failure(closed):
    (closed.upstream_dir / "b").write_bytes(letters("mno"))
    for _ in range(2):
        with pytest.raises(UpstreamChangedError):
            closed.open()


def test_descriptors_are_closed_whatever_happens(closed):
    before = set(Path("/proc/self/fd").iterdir())
    closed.open()
    closed.close()
    (closed.upstream_dir / "b").write_bytes(letters("mno"))
    with pytest.raises(UpstreamChangedError):
        closed.open()
    with pytest.raises(ThincowError):
        closed.open(block_size=4096)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_checked_store_that_is_not_sound_is_refused(closed):
    closed.open(check=True)
    closed.close()
    subprocess.run(
        ["sqlite3", str(closed.database), "UPDATE cow SET refs = 7; SELECT 1"], check=True
    )
    closed.must_be_sound = False
    expect_refused(closed, CorruptStoreError, "problem.*thincow fsck", check=True)


@pytest.mark.parametrize(
    ("kind", "name"), [("write", "metadata.db-wal"), ("sync", "metadata.db-wal")]
)
def test_opening_that_cannot_write_leaves_the_store_valid(new_store, kind, name):
    disk = ScriptedDisk(with_sqlite=True)
    store = new_store(disk=disk)
    store.add("a", "abcd")
    store.open()
    store.write_blocks("a", 1, "xy")
    store.close()
    with disk.failing(kind, name), pytest.raises(ThincowError):
        store.open()
    store.check()
    store.open()
    assert store.read_blocks("a") == "axyd"


def test_killed_store_goes_on(closed):
    for number, character in enumerate("ABCD"):
        closed.open()
        closed.write_blocks("a", number, character)
        closed.engine.commit()
        closed.write_blocks("b", number, character.lower())
        closed.kill()
    closed.open()
    assert closed.read_blocks("a") == "ABCD"
    assert closed.read_blocks("b") == "mnop"
    closed.close()
    assert {path.name for path in closed.data_dir.iterdir()} == {
        "cowdata",
        "cowdata.id",
        "metadata.db",
    }


def test_store_directories_are_made(new_store):
    store = new_store(metadata="apart")
    store.add("a", "abcd")
    store.open()
    assert store.data_dir.is_dir()
    assert Path(store.root / "metadata").is_dir()


@pytest.mark.parametrize("metadata", ["beside", "apart"])
def test_new_store_is_locked_before_anything_is_put_into_it(new_store, monkeypatch, metadata):
    """Two mounts at once of one data directory, with metadata directories that are yet to come."""
    store = new_store(metadata=metadata)
    store.add("a", "abcd")
    store.data_dir.mkdir()
    other = replace(store.store_options(), metadata_dir=store.root / "other")
    create = open_store.create_store
    refused = []

    def create_meanwhile(*arguments):
        if not refused:
            with pytest.raises(StoreInUseError) as error:
                open_engine(other)
            refused.append(error)
        return create(*arguments)

    monkeypatch.setattr(open_store, "create_store", create_meanwhile)
    store.open()
    assert refused
    assert not (store.root / "other").exists()
    store.write_blocks("a", 0, "x")
    store.restart()
    assert store.read_blocks("a") == "xbcd"
