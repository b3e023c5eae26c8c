"""Opens, reads, checks and repairs damaged stores, one after the other in one process.

    python -m tests.fuzz.opens SEED COUNT [FIRST]

Whatever was done to a store: it works, or there is one clear error. Anything else ends the process
with the number of the case, which replays it: `python -m tests.fuzz.opens SEED 1 NUMBER`.
"""

import faulthandler
import gc
import logging
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from unittest.mock import patch
from uuid import UUID

import apsw

from tests.fuzz.damage import Files, damage
from tests.support.engines import read_all, write_all
from tests.support.plain_store import connect
from tests.support.repairable_store import RepairableStore, make_repairable_store
from thincow.engine import fsck
from thincow.engine.engine import Engine, open_engine
from thincow.engine.repair import repair
from thincow.errors import ThincowError

MAX_MEMORY_BYTES = 2 << 30
MAX_SECONDS = 30

Outcomes = Counter[str]


class Fuzzer:
    """The stores that are damaged, and what must stay as it is meanwhile."""

    def __init__(self, root: Path, seed: int) -> None:
        self.seed = seed
        self.root = root
        self.upstream_dir = root / "first" / "upstream"
        (root / "first").mkdir()
        (root / "second").mkdir()
        (root / "work").mkdir()
        # The same stores each time, so that a case can be run again.
        with patch("uuid.uuid4", side_effect=[UUID(int=1), UUID(int=2)]):
            self.store = make_repairable_store(root / "first")
            other = make_repairable_store(root / "second")
        self.sound = [_files(self.store.data_dir), self._with_log()]
        self.others = [*self.sound, _files(other.data_dir)]
        self.victim = RepairableStore(root / "victim", self.upstream_dir, self.store.contents)
        self.outside = self._outside()

    def run(self, number: int) -> tuple[str, list[str]]:
        """Run one case; return how the store was damaged, and the outcomes."""
        words = self.prepare(number)
        chance = Random(f"{self.seed} {number} steps")
        outcomes = [self._open(chance), self._check(chance)]
        if chance.random() < 0.3:
            outcomes.append(self._repair(chance))
        self.verify_outside()
        return words, outcomes

    def prepare(self, number: int) -> str:
        """Put the damaged store of one case in its place; return how it was damaged."""
        chance = Random(f"{self.seed} {number}")
        words, files = damage(chance.choice(self.sound), self.others, self.root / "work", chance)
        shutil.rmtree(self.victim.data_dir, ignore_errors=True)
        self.victim.data_dir.mkdir()
        for name, content in files.items():
            (self.victim.data_dir / name).write_bytes(content)
        return words

    def _open(self, chance: Random) -> str:
        options = replace(
            self.victim.options(),
            block_size=None,
            checksum_bits=None,
            force=chance.random() < 0.3,
            read_only=chance.random() < 0.3,
            temp_dir=self.root / "work",
        )
        try:
            engine = open_engine(options)
        except ThincowError as error:
            return _one_line("open", error)
        try:
            self._use(engine, chance)
            return "opened"
        except ThincowError as error:
            return _one_line("use", error)
        finally:
            try:
                engine.close()
            except ThincowError as error:
                _one_line("close", error)

    def _use(self, engine: Engine, chance: Random) -> None:
        """Read all devices, block by block where errors are met, and write a little."""
        for device in engine.devices:
            size = min(device.size_bytes, 1 << 20)
            for at in range(0, size, 1 << 12):
                try:
                    read_all(engine, device, at, 1 << 12)
                except ThincowError as error:
                    _one_line("read", error)
            if size and not engine.read_only and chance.random() < 0.5:
                try:
                    write_all(engine, device, chance.randrange(size), chance.randbytes(700))
                except ThincowError as error:
                    _one_line("write", error)
        engine.commit()
        engine.status()

    def _check(self, chance: Random) -> str:
        upstream = self.upstream_dir if chance.random() < 0.5 else None
        try:
            report = fsck.check(self.victim.data_dir, None, upstream, deep=chance.random() < 0.5)
        except ThincowError as error:
            return _one_line("check", error)
        return "clean" if report.is_clean else "problems"

    def _repair(self, chance: Random) -> str:
        try:
            result = repair(self.victim.data_dir, None, None, deep=chance.random() < 0.5)
        except ThincowError as error:
            return _one_line("repair", error)
        if result.after is None:
            return "nothing to repair" if result.before.is_clean else "not repaired"
        if not result.after.is_clean:
            return "repaired in part"
        engine = open_engine(replace(self.victim.options(), force=True, checksum_bits=None))
        try:
            self._use(engine, chance)
        finally:
            engine.close()
        return "repaired"

    def _with_log(self) -> Files:
        """Return the files of a store whose last change is only in the write-ahead log."""
        copy = self.store.copy(self.root / "copy")
        connection = connect(copy.data_dir)
        try:
            connection.execute("UPDATE globals SET value = 0 WHERE key = 'clean'")
            return _files(copy.data_dir)
        finally:
            connection.close()
            shutil.rmtree(copy.data_dir)

    def _outside(self) -> dict[str, tuple[int, int]]:
        """Return size and modification time of everything but the store that is damaged."""
        return {
            str(path): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.root.rglob("*")
            if path.is_file() and self.victim.data_dir not in path.parents
        }

    def verify_outside(self) -> None:
        """Show that nothing but the damaged store was written to."""
        assert self._outside() == self.outside, "something outside of the store was written"


def _files(data_dir: Path) -> Files:
    return {
        path.name: path.read_bytes()
        for path in data_dir.iterdir()
        if path.name in ("cowdata", "cowdata.id", "metadata.db", "metadata.db-wal")
    }


def _one_line(step: str, error: ThincowError) -> str:
    text = str(error)
    assert text, f"{step}: an error without words"
    assert len(text.splitlines()) == 1, f"{step}: {text!r}"
    return f"{step}: {type(error).__name__}"


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - entries vanish while they are listed


def main(arguments: list[str]) -> None:
    seed, count = int(arguments[0]), int(arguments[1])
    first = int(arguments[2]) if len(arguments) > 2 else 0
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    logging.disable()
    outcomes: Outcomes = Counter()
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thincow-fuzz.", dir=parent) as name:
        fuzzer = Fuzzer(Path(name), seed)
        fuzzer.run(first)
        files = _open_files()
        for number in range(first, first + count):
            print(f"\rcase {number}", end="", file=sys.stderr)  # for a case that hangs
            faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
            try:
                words, found = fuzzer.run(number)
                assert not apsw.connections(), "a connection is left open"
                assert number % 100 or _open_files() == files, "files are left open"
            except BaseException:
                print(f"\rseed {seed}, case {number} fails", file=sys.stderr)
                raise
            if count == 1:
                print(words, found)
            outcomes.update(found)
    faulthandler.cancel_dump_traceback_later()
    seconds = time.monotonic() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"seed {seed}: {count} opens in {seconds:.0f} s, {memory} MiB of memory")
    for outcome, number in outcomes.most_common():
        print(f"  {number:7} {outcome}")


if __name__ == "__main__":
    main(sys.argv[1:])
