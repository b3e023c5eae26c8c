"""The engine against a plain model: random requests, commits, failures, restarts and kills.

For more than the default, or to repeat one seed:

    tools/test tests/property --operations 1000000
    tools/test tests/property -k "differential and 0" --first-seed 4711
"""

import errno
import random
from dataclasses import dataclass, field
from threading import Thread

import pytest

from tests.support.engines import EngineStore, NewStore
from tests.support.exerciser import Exerciser
from tests.support.random_operations import Mix, make_contents
from tests.support.scripted_disk import ScriptedDisk
from thincow.engine.commit import Commit
from thincow.engine.options import Tuning
from thincow.errors import CommitError, NoSpaceError

SEEDS = 24
BLOCK_SIZES = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
CHECKSUM_BITS = (0, 0, 8, 16, 32, 64)
LOG = "metadata.db-wal"


@dataclass
class EngineTarget:
    """An engine store as the exerciser drives it.

    By itself it begins commits and finishes them some requests later, runs some of them in a
    thread meanwhile, lets some of them fail, and changes options and sizes of caches at restarts.
    """

    store: EngineStore
    disk: ScriptedDisk
    random: random.Random
    happened: dict[str, int] = field(default_factory=dict)
    _commit: Commit | None = None
    _thread: Thread | None = None

    def open(self) -> None:
        tuning = Tuning(
            max_reserve_bytes=4096,
            window_blocks=self.random.choice((1, 4, 16, 4096)),
            cached_windows=(windows := self.random.choice((1, 3, 100))),
            commit_staged_hashes=3 * windows,
            max_waiting_hints=5 * windows,
            checkpoint_wal_bytes=self.random.choice((0, 1 << 16, 64 << 20)),
        )
        self.store.open(
            tuning=tuning,
            hash_table_bytes=self.random.choice((16, 256, 1 << 20)),
            retroactive=self.random.random() < 0.5,
            checksum_bits=self.random.choice((None, None, *CHECKSUM_BITS)),
        )

    def read(self, device: int, offset: int, length: int) -> bytes:
        self._go_on()
        return self.store.read(self._name(device), offset, length)

    def write(self, device: int, offset: int, data: bytes) -> int:
        self._go_on()
        try:
            return self._write(device, offset, data)
        except NoSpaceError:
            self._note("refused")
            self.disk.mend()
            self.sync()
            return self._write(device, offset, data)

    def truncate(self, device: int, size: int) -> None:
        self._go_on()
        try:
            self.store.resize(self._name(device), size)
        except NoSpaceError:
            self._note("refused")
            self.disk.mend()
            self.sync()
            self.store.resize(self._name(device), size)

    def size(self, device: int) -> int:
        return self.store.device(self._name(device)).size_bytes

    def sync(self) -> None:
        self._finish()
        self.disk.mend()
        self.store.engine.commit()

    def restart(self) -> None:
        self._finish()
        self.disk.mend()
        self.store.close()
        self.open()

    def kill(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self.store.copy_files()
        self.disk.mend()
        self._finish()
        self.store.close()
        self.store.adopt_copy()
        self.open()

    def _write(self, device: int, offset: int, data: bytes) -> int:
        return self.store.write(self._name(device), offset, data)

    def _name(self, device: int) -> str:
        return self.store.engine.devices[device].name

    def _go_on(self) -> None:
        """Now and then go a step on with a commit."""
        if self.random.random() < 0.7:
            return
        if self._commit is not None:
            self._finish()
        else:
            self._commit = self.store.engine.freeze(is_awaited=self.random.random() < 0.5)
            if self._commit is None:
                return
            if self.random.random() < 0.1:
                self.disk.fail("write", LOG, errno.ENOSPC)
            if self.random.random() < 0.5 and not self._commit.must_run_inline:
                self._thread = Thread(target=self._commit.run)
                self._thread.start()

    def _finish(self) -> None:
        commit, self._commit = self._commit, None
        thread, self._thread = self._thread, None
        if commit is None:
            return
        if thread is not None:
            thread.join()
        else:
            commit.run()
        try:
            self.store.engine.finish(commit)
            self._note("commits")
        except CommitError:
            self._note("failed commits")
            if self.random.random() < 0.5:
                self.disk.mend()

    def _note(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1


def choose_mix(metadata: str) -> Mix:
    """No restarts and kills of what would be gone then."""
    if metadata == "memory":
        return Mix(restart=0)
    return Mix(restart=2, kill=2 if metadata == "beside" else 0)


@pytest.mark.parametrize("number", range(SEEDS))
def test_engine_does_what_the_model_does(new_store: NewStore, number, operations, first_seed):
    seed = first_seed + number
    choose = random.Random(seed)
    block_size = BLOCK_SIZES[seed % len(BLOCK_SIZES)] if seed % 23 else 1 << 20
    blocks = choose.choice((8, 40)) if block_size <= 65536 else 4
    metadata = choose.choice(("beside", "beside", "beside", "apart", "memory"))
    disk = ScriptedDisk(with_sqlite=metadata != "memory")
    chance = choose.choice((0, 0.2, 1))
    disk.is_cold = lambda: choose.random() < chance
    store = new_store(disk=disk, metadata=metadata, block_size=block_size)
    contents = make_contents(seed, block_size, devices=3, blocks=blocks)
    for name, content in zip("abc", contents, strict=True):
        store.add(name, content)
    target = EngineTarget(store, disk, choose)
    target.open()
    print(f"blocks of {block_size} bytes, metadata {metadata}")
    exerciser = Exerciser(seed, contents, block_size, target, choose_mix(metadata))
    exerciser.run(max(1, operations // SEEDS))
    if metadata != "memory":
        target.restart()
        exerciser.compare_all()
    target.sync()
    print(target.happened)
    for name, content in zip("abc", contents, strict=True):
        assert (store.upstream_dir / name).read_bytes() == content
