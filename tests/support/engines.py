"""A store with an engine over it, without FUSE: what most tests drive.

Every fetch that a call asks for is run; every store that was closed is checked.
"""

import copy
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from thincow.block_types import DEVICE_SHIFT, Kind
from thincow.engine import fsck
from thincow.engine.device import Device
from thincow.engine.engine import Engine, open_engine
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.options import StoreOptions, Tuning
from thincow.store.disk import Disk

BLOCK = 512
TINY = Tuning(window_blocks=4, cached_windows=1, max_reserve_bytes=4096)

NewStore = Callable[..., "EngineStore"]
Answer = TypeVar("Answer")


def read_all(engine: Engine, device: Device, offset: int, length: int) -> bytes:
    """Read, fetching what is not in the page cache."""
    return _fetching(lambda fetch: bytes(engine.read(device, offset, length, fetch)))


def write_all(engine: Engine, device: Device, offset: int, data: bytes) -> int:
    """Write, fetching what is not in the page cache."""
    return _fetching(lambda fetch: engine.write(device, offset, data, fetch))


def resize_once(engine: Engine, device: Device, size: int) -> int:
    """Resize as far as one call goes, fetching what is not in the page cache."""
    return _fetching(lambda fetch: engine.resize(device, size, fetch))


def _fetching(call: Callable[[Fetch | None], Answer]) -> Answer:
    fetch = None
    try:
        while True:
            try:
                return call(fetch)
            except WouldBlock as blocked:
                fetch = blocked.fetch
                fetch.run()
    finally:
        if fetch is not None:
            fetch.release()


def letter(character: str, block_size: int = BLOCK) -> bytes:
    """Return a block that is the same for the same character and no other one."""
    return (character.encode() + b"-block;").ljust(8, b".") * (block_size // 8)


def numbered(count: int) -> bytes:
    """Return so many blocks that all differ."""
    return b"".join(number.to_bytes(4, "big") * (BLOCK // 4) for number in range(1, count + 1))


def letters(characters: str, block_size: int = BLOCK) -> bytes:
    """Return one block a character; `0` stands for zeros."""
    return b"".join(
        bytes(block_size) if character == "0" else letter(character, block_size)
        for character in characters
    )


class EngineStore:
    """A store below a directory, its upstream files, and the engine while it is open.

    `options` are those of `StoreOptions`. `metadata` is where the metadata live: "beside" the
    contents, "apart" in a directory of their own, or in "memory".
    """

    def __init__(
        self, root: Path, disk: Disk | None = None, metadata: str = "beside", **options: object
    ) -> None:
        self.root = root
        self.disk = disk or Disk()
        self.metadata = metadata
        self.upstream_dir = root / "upstream"
        self.data_dir = root / "data"
        self.must_be_sound = True
        self.options: dict[str, object] = {"block_size": BLOCK, "tuning": TINY, **options}
        self._engine: Engine | None = None
        self.upstream_dir.mkdir(parents=True)

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "not open"
        return self._engine

    @property
    def block_size(self) -> int:
        size = self.options["block_size"]
        assert isinstance(size, int)
        return size

    @property
    def metadata_dir(self) -> Path | None:
        if self.metadata == "memory":
            return None
        return self.data_dir if self.metadata == "beside" else self.root / "metadata"

    @property
    def database(self) -> Path:
        assert self.metadata_dir is not None
        return self.metadata_dir / "metadata.db"

    @property
    def cowdata(self) -> Path:
        return self.data_dir / "cowdata"

    def add(self, name: str, content: bytes | str) -> Path:
        """Make an upstream file; a string stands for letters."""
        path = self.upstream_dir / name
        is_text = isinstance(content, str)
        path.write_bytes(letters(content, self.block_size) if is_text else content)
        return path

    def open(self, **options: object) -> Engine:
        """Open; `options` hold from now on."""
        assert self._engine is None, "open already"
        self.options |= options
        self._engine = open_engine(self.store_options(), self.disk)
        return self._engine

    def store_options(self, **options: object) -> StoreOptions:
        chosen = StoreOptions(self.data_dir, self.metadata_dir, self.upstream_dir)
        return replace(chosen, **(self.options | options))

    def close(self) -> None:
        """Close and check the store, if it is open."""
        if self._engine is None:
            return
        engine, self._engine = self._engine, None
        if self.metadata == "memory" and not engine.failed:
            with engine.snapshot() as snapshot:
                assert fsck.check_snapshot(snapshot).findings == ()
        engine.close()
        self.check()

    def restart(self, **options: object) -> Engine:
        """Close, check, open again."""
        self.close()
        return self.open(**options)

    def kill(self) -> None:
        """Go on with the files as a process killed now would leave them; does not open."""
        self.copy_files()
        engine, self._engine = self._engine, None
        assert engine is not None
        engine.close()
        self.adopt_copy()

    def another(self) -> "EngineStore":
        """Return the same store as another process would open it."""
        view = copy.copy(self)
        view.options = dict(self.options)
        view._engine = None
        return view

    def copy_files(self) -> None:
        """Copy the files of the store, as they are now, for `adopt_copy`."""
        assert self.metadata == "beside"
        # By another process: to open and close the database's files here would drop its locks.
        subprocess.run(
            ["cp", "-a", "--sparse=always", self.data_dir, self.root / "copy"], check=True
        )

    def adopt_copy(self) -> None:
        """Put the copy in the place of the closed store."""
        shutil.rmtree(self.data_dir)
        (self.root / "copy").rename(self.data_dir)

    def forget(self) -> None:
        """Do not close the engine again: it has been closed, or has failed to."""
        self._engine = None

    def check(self) -> None:
        """Check the closed store."""
        if self.must_be_sound and self.metadata_dir is not None and self.database.exists():
            report = fsck.check(self.data_dir, self.metadata_dir)
            assert report.findings == ()

    def device(self, name: str) -> Device:
        (found,) = [device for device in self.engine.devices if device.name == name]
        return found

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        device = self.device(name)
        return read_all(
            self.engine, device, offset, device.size_bytes if length is None else length
        )

    def write(self, name: str, offset: int, data: bytes) -> int:
        return write_all(self.engine, self.device(name), offset, data)

    def resize(self, name: str, size: int) -> None:
        """Give a device another size, in as many calls as that takes."""
        while resize_once(self.engine, self.device(name), size) != size:
            pass

    def write_blocks(self, name: str, first: int, characters: str) -> None:
        """Write whole blocks of letters in one request."""
        data = letters(characters, self.block_size)
        assert self.write(name, first * self.block_size, data) == len(data)

    def read_blocks(self, name: str, first: int = 0, count: int | None = None) -> str:
        """Read whole blocks as letters; `?` for something else."""
        size = self.block_size
        length = None if count is None else count * size
        data = self.read(name, first * size, length)
        found = ""
        for at in range(0, len(data), size):
            block = data[at : at + size]
            character = "0" if block == bytes(size) else chr(block[0])
            found += character if block == letters(character, size) else "?"
        return found

    def places(self, name: str) -> list[str]:
        """Commit, and tell of each block of a device where its content is.

        That is `own` (identity), `zero`, `cow N` or the name of a device and a block number in it.
        """
        device = self.device(name)
        names = {device.id: device.name for device in self.engine.devices}
        places = ["own"] * device.blocks
        with self.engine.snapshot() as snapshot:
            for chunk in snapshot.extents():
                for first, length, kind, target in zip(*(c.tolist() for c in chunk), strict=True):
                    if first >> DEVICE_SHIFT != device.id:
                        continue
                    for at in range(length):
                        place = _place(kind, target + at, names)
                        places[first + at - device.first_block] = place
        return places

    def count_extents(self) -> int:
        """Commit, and return how many rows the map has."""
        with self.engine.snapshot() as snapshot:
            return sum(len(chunk.length) for chunk in snapshot.extents())

    def count_dirty(self) -> int:
        """Commit, and return how many blocks are not identity."""
        return sum(
            place != "own" for device in self.engine.devices for place in self.places(device.name)
        )

    def live_cow_blocks(self) -> int:
        """Commit, and return how many COW blocks are referred to."""
        self.engine.commit()
        return self.engine.cow_usage()[2]

    def stored_blocks(self) -> float:
        """Return the blocks of `cowdata`, closed, that are no hole.

        The blocks that `stat` tells of may contain some of the filesystem's own.
        """
        with self.cowdata.open("rb") as file:
            return _count_data_bytes(file.fileno()) / self.block_size


def _place(kind: int, target: int, names: dict[int, str]) -> str:
    if kind == Kind.ZERO:
        return "zero"
    if kind == Kind.COW:
        return f"cow {target}"
    return f"{names[target >> DEVICE_SHIFT]} {target & ((1 << DEVICE_SHIFT) - 1)}"


def _count_data_bytes(fd: int) -> int:
    count = end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return count
        end = os.lseek(fd, start, os.SEEK_HOLE)
        count += end - start


@pytest.fixture
def new_store(tmp_path: Path) -> Iterator[NewStore]:
    """Make stores; at the end they are closed and checked."""
    stores = []

    def make(name: str = "store", **options: object) -> EngineStore:
        store = EngineStore(tmp_path / name, **options)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()
        store.check()


@pytest.fixture
def store(new_store: NewStore) -> EngineStore:
    """A store with blocks of 512 bytes and tiny windows, without upstream files; not open yet."""
    return new_store()
