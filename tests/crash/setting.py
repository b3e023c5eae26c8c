"""What differs from seed to seed: options, limits, and the layout of the simulated disk."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from tests.crash.recording import TIME_SUFFIX
from tests.support.random_operations import make_contents
from thincow.engine import committer, free_blocks, open_store, space_return
from thincow.engine.device import Device
from thincow.engine.engine import Engine
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.options import StoreOptions, Tuning
from thincow.store import cow_file, upstream_writer
from thincow.store.log_index import LogIndex
from thincow.store.upstream import UpstreamFile

MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where simulated disks lie: syncs of real ones would take most of the time."""

BLOCK_SIZE = 512
DEVICES = 3


@dataclass(frozen=True, slots=True)
class Setting:
    """How the store of a seed is made, and what happens to it.

    `directories` exist before it is made. `steps` are those of the first session, after which as
    many as `recoveries` others go on from a cut, with `recovery_steps` each. `fails_sync`: one
    sync of the file whose name ends so fails. `fails_upstream`: the part of the syncs of upstream
    that fail. `shells`: how often a `sqlite3` shell looks in, `flushes`: how often a flush begins,
    both in percent of the steps. `truncates`: how many requests change a size, as in `Mix`.
    `spare_blocks`: by how many blocks `cowdata` may grow in a flush (None: as much as the options
    allow), `fails_copies`: the part of the contents in the way of a flush that cannot be read.
    """

    seed: int
    root: Path
    upstream: list[bytes]
    directories: tuple[str, ...]
    options: StoreOptions
    steps: int
    recoveries: int
    recovery_steps: int
    fails_sync: str | None
    fails_upstream: float
    shells: float
    flushes: float
    truncates: float
    garbage: bool
    punch_after_bytes: int
    punch_grain_bytes: int
    spare_blocks: int | None
    fails_copies: float

    @classmethod
    def random(cls, seed: int, root: Path) -> "Setting":
        """Choose everything by the seed, for a disk at `root`."""
        generator = random.Random(f"setting {seed}")
        metadata = generator.choice(("data", "metadata"))
        tuning = Tuning(
            max_reserve_bytes=4096,
            window_blocks=generator.choice((4, 8)),
            cached_windows=2,
            checkpoint_wal_bytes=generator.choice((0, 9000, 30000)),
        )
        options = StoreOptions(
            data_dir=root / "data",
            metadata_dir=root / metadata,
            upstream_dir=root / "upstream",
            block_size=BLOCK_SIZE,
            hash_table_bytes=generator.choice((256, 512, 4096)),
            max_cow_blocks=generator.choice((None, None, 20)),
            checksum_bits=generator.choice((0, 8, 64)),
            retroactive=generator.random() < 0.5,
            tuning=tuning,
        )
        return cls(
            seed,
            root,
            make_contents(seed, BLOCK_SIZE, DEVICES, blocks=generator.randrange(8, 24)),
            directories=tuple({"data", metadata}) if generator.random() < 0.5 else (),
            options=options,
            steps=generator.choice((15, 30, 60)),
            recoveries=6,
            recovery_steps=6,
            fails_sync=generator.choice((None,) * 9 + ("cowdata", "-wal", "metadata.db")),
            fails_upstream=generator.choice((0.0,) * 6 + (0.1, 0.4)),
            shells=0.5,
            flushes=5.0,
            garbage=generator.random() < 0.7,
            punch_after_bytes=generator.choice((0, 1024, 4096)),
            punch_grain_bytes=generator.choice((512, 1024, 4096)),
            truncates=generator.choice((0.0, 0.0, 3.0, 12.0)),
            spare_blocks=generator.choice((None,) * 5 + (0, 1, 2)),
            fails_copies=generator.choice((0.0,) * 5 + (0.3,)),
        )

    def first_disk(self) -> dict[str, bytes | None]:
        """Return `first_state` with the modification times of upstream."""
        state = self.first_state()
        for number in range(len(self.upstream)):
            state[f"upstream/device{number}{TIME_SUFFIX}"] = (10**18).to_bytes(8, "little")
        return state

    def first_state(self) -> dict[str, bytes | None]:
        """Return the disk before there is a store: path -> content, None for a directory."""
        state: dict[str, bytes | None] = {"upstream": None}
        for number, content in enumerate(self.upstream):
            state[f"upstream/device{number}"] = content
        return state | dict.fromkeys(self.directories)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Make the engine do often what it does rarely on large stores, and open quickly.

        Looking at directories, upstream files and the devices below them, and securing the index
        of the log, cost more than everything else at an open and have nothing to do with what is
        durable: they are done once, or not at all.
        """
        with (
            patched(open_store, "scan", _scan_once(open_store.scan)),
            patched(upstream_writer, "_refuse_busy_file", do_nothing),
            patched(space_return, "_AFTER_BYTES", self.punch_after_bytes),
            patched(committer, "_SCAN_ROWS", 2),
            patched(free_blocks, "_PUNCH_GRAIN_BYTES", self.punch_grain_bytes),
            patched(cow_file, "_MIN_CLAIM_BYTES", 2048),
            patched(open_store, "_require_usable_directories", do_nothing),
            patched(open_store, "refuse_overlaps", do_nothing),
            patched(LogIndex, "secure", do_nothing),
        ):
            yield


@contextmanager
def patched(owner: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _scan_once(scan: Callable[[Path], list[UpstreamFile]]) -> Callable[[Path], list[UpstreamFile]]:
    """Return `scan`, which after the first time looks only at what a flush changes."""
    cached = cache(scan)

    def scan_again(directory: Path) -> list[UpstreamFile]:
        found = []
        for file in cached(directory):
            status = file.resolved_path.stat()
            found.append(replace(file, mtime_ns=status.st_mtime_ns, size_bytes=status.st_size))
        return found

    return scan_again


def do_nothing(*_: object) -> None:
    """Take the place of a function that is not wanted."""


def leave(engine: Engine) -> None:
    """Let go of a store as a killed process does: no commit, no checkpoint, no punching."""
    engine._store.close(keep_log=True)


Outcome = TypeVar("Outcome")


def patiently(call: Callable[[Fetch | None], Outcome]) -> Outcome:
    """Do an engine call; when it needs something fetched first, do that and call again."""
    fetch = None
    while True:
        try:
            return call(fetch)
        except WouldBlock as blocked:
            fetch = blocked.fetch
            fetch.run()
            fetch.release()


def read_all(engine: Engine) -> tuple[bytes, ...]:
    """Return the bytes of all devices."""

    def read(device: Device) -> bytes:
        return bytes(patiently(lambda fetch: engine.read(device, 0, device.size_bytes, fetch)))

    return tuple(map(read, engine.devices))
