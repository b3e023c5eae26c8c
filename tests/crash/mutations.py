"""Planted bugs in the order of things. The simulator must notice each: that is its own test.

The bugs are changes of single functions, in effect while a context manager is open. Those in
flushing are in `flush_mutations`, and those in changes of sizes in `size_mutations`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import apsw

from tests.crash.recording import RecordingDisk
from tests.crash.setting import Setting, do_nothing, patched
from thincow.engine import commit as commit_module
from thincow.engine.commit import Commit
from thincow.engine.committer import Committer
from thincow.engine.cow_counts import CowCounts
from thincow.engine.cow_store import CowStore
from thincow.engine.engine import Engine
from thincow.store import connection, cow_table, database, globals_table, sql_files
from thincow.store.cow_file import CowFile

Planting = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Mutation:
    """A planted bug. `adapt` makes the settings likely in which it shows.

    `states` are looked at with each seed: few where a session shows it without any cut.
    """

    name: str
    plant: Planting
    adapt: Callable[[Setting], Setting]
    states: int
    first_seed: int


MUTATIONS: dict[str, Mutation] = {}


def mutation(
    adapt: Callable[[Setting], Setting] = lambda setting: setting,
    states: int = 600,
    first_seed: int = 0,
) -> Any:
    """Register a generator function that plants a bug, by its name.

    `first_seed`: where to begin, so that it is noticed soon; others follow.
    """

    def register(function: Callable[[], Iterator[None]]) -> Planting:
        plant = contextmanager(function)
        MUTATIONS[function.__name__] = Mutation(function.__name__, plant, adapt, states, first_seed)
        return plant

    return register


@mutation()
def cowdata_not_synced_before_commit() -> Iterator[None]:
    with patched(CowFile, "sync", do_nothing):
        yield


@mutation()
def synchronous_normal() -> Iterator[None]:
    right = database.open_database

    def wrong(*args: Any, **kwargs: Any) -> database.Database:
        opened = right(*args, **kwargs)
        opened.writer.pragma("synchronous", "NORMAL")
        return opened

    with patched(database, "open_database", wrong):
        yield


def _busy(setting: Setting) -> Setting:
    """Let blocks be freed and allocated all the time."""
    options = replace(setting.options, hash_table_bytes=256, retroactive=False, checksum_bits=0)
    return replace(setting, steps=60, options=options)


@mutation(_busy)
def freed_blocks_reused_early() -> Iterator[None]:
    def wrong(self: CowStore, blocks: Any) -> None:
        fresh, known = self._counts.drop(blocks)
        for start, length in fresh + known:
            self._make_reusable(start, length)

    with patched(CowStore, "drop_references", wrong):
        yield


@mutation(_busy)
def freed_blocks_punched_early() -> Iterator[None]:
    right = CowStore.freeze

    def wrong(self: CowStore) -> Any:
        counts, freed = right(self)
        for start, length in freed:
            self.file.punch(start * self.block_size, length * self.block_size)
        return counts, freed

    with patched(CowStore, "freeze", wrong):
        yield


@mutation()
def schema_created_in_several_transactions() -> Iterator[None]:
    def wrong(disk: RecordingDisk, path: Path, facts: Any) -> None:
        disk.close(disk.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        db = connection.open_connection(path, create=True, vfs=disk.sqlite_vfs)
        db.execute(f"PRAGMA application_id = {connection.APPLICATION_ID}")
        db.execute(sql_files.schema_sql())
        database_facts(db, facts)
        db.execute(f"PRAGMA user_version = {sql_files.schema_version()}")
        db.pragma("journal_mode", "WAL")
        db.close()
        disk.sync_directory(path.parent)

    with patched(database, "create", wrong):
        yield


def database_facts(db: apsw.Connection, facts: Any) -> None:
    values = {name: getattr(facts, name) for name in facts.__slots__}
    globals_table.store(db, values | {"clean": int(facts.clean)})


@mutation()
def fsync_answered_before_the_commit() -> Iterator[None]:
    """Commit when the next request comes."""
    right = {name: getattr(Engine, name) for name in ("commit", "read", "write", "freeze", "close")}
    waiting: set[Engine] = set()

    def commit(self: Engine) -> None:
        waiting.add(self)

    def before(name: str) -> Callable[..., Any]:
        def wrong(self: Engine, *args: Any, **kwargs: Any) -> Any:
            if self in waiting:
                waiting.discard(self)
                right["commit"](self)
            return right[name](self, *args, **kwargs)

        return wrong

    with ExitStack() as stack:
        for name in ("read", "write", "freeze", "close"):
            stack.enter_context(patched(Engine, name, before(name)))
        stack.enter_context(patched(Engine, "commit", commit))
        yield


@mutation()
def counts_committed_before_extents() -> Iterator[None]:
    """Release before reference: the two halves of a commit in transactions of their own."""
    right = Commit._write

    def wrong(self: Commit, *, with_hashes: bool) -> None:
        db = self.database.writer
        with connection.transaction(db):
            for part in self.epoch.counts:
                changes = commit_module._flat(commit_module._changes_of_counts(part))
                cow_table.apply_changes(db, *changes)
        right(self, with_hashes=with_hashes)

    with patched(Commit, "_write", wrong):
        yield


def _failing_cowdata(setting: Setting) -> Setting:
    return replace(_busy(setting), fails_sync="cowdata")


@mutation(_failing_cowdata)
def failed_sync_retried() -> Iterator[None]:
    def wrong(self: CowFile) -> None:
        try:
            self._disk.sync(self.fd)
        except OSError:
            self._disk.sync(self.fd)

    with patched(CowFile, "sync", wrong):
        yield


@mutation(_failing_cowdata)
def failed_sync_taken_for_a_full_disk() -> Iterator[None]:
    """The failed commit is kept and tried again, as after ENOSPC."""
    with patched(Committer, "_fail", do_nothing):
        yield


def _small_holes(setting: Setting) -> Setting:
    """Let every commit punch, and be followed by many more steps."""
    options = replace(setting.options, checksum_bits=0)
    return replace(setting, steps=120, punch_after_bytes=0, punch_grain_bytes=512, options=options)


@mutation(_small_holes)
def punch_races_reuse() -> Iterator[None]:
    """Ranges are punched later, when they may have been allocated again."""
    right = CowFile.punch
    late: dict[CowFile, list[tuple[int, int]]] = {}

    def wrong(self: CowFile, offset: int, length: int) -> None:
        for part in late.pop(self, []):
            right(self, *part)
        late[self] = [(offset, length)]

    with patched(CowFile, "punch", wrong):
        yield


def _long_memory(setting: Setting) -> Setting:
    """Let contents come back long after they were freed."""
    options = replace(setting.options, hash_table_bytes=4096, max_cow_blocks=None)
    return replace(setting, steps=120, options=options)


@mutation(_long_memory)
def freed_block_matched_again() -> Iterator[None]:
    def wrong(self: CowCounts, block: int, limit: int) -> int:
        return limit

    with patched(CowCounts, "live_run", wrong):
        yield


@mutation()
def label_written_before_the_commit() -> Iterator[None]:
    right = Committer.freeze

    def wrong(self: Committer, *, is_awaited: bool = False) -> Commit | None:
        commit = right(self, is_awaited=is_awaited)
        if commit is not None:
            self._label.write(commit.generation)
        return commit

    with patched(Committer, "freeze", wrong):
        yield


@mutation(first_seed=8)
def closed_before_the_label_is_synced() -> Iterator[None]:
    def wrong(self: Committer) -> None:
        self.commit()
        self._parts.cow.punch(max_runs=None)
        with connection.transaction(self._store.database.writer):
            globals_table.store(self._store.database.writer, {"clean": 1})
        self._label.write(self._generation)
        self._label.sync()

    with patched(Committer, "close", wrong):
        yield


@mutation()
def checkpoint_without_sync() -> Iterator[None]:
    right = connection.checkpoint

    def wrong(db: apsw.Connection, *, truncate: bool = False) -> None:
        db.pragma("synchronous", "OFF")
        right(db, truncate=truncate)
        db.pragma("synchronous", "FULL")

    with patched(database, "checkpoint", wrong):
        yield


@mutation()
def directories_not_synced() -> Iterator[None]:
    with patched(RecordingDisk, "sync_directory", do_nothing):
        yield


def _many_shells(setting: Setting) -> Setting:
    return replace(setting, shells=15.0)


@mutation(_many_shells)
def second_descriptor_of_the_database() -> Iterator[None]:
    """To close any descriptor of it drops the locks: a leaving shell then removes the log."""
    right = Commit.run

    def wrong(self: Commit, *, patient: bool = True) -> None:
        right(self, patient=patient)
        assert self.database.path is not None
        os.close(os.open(self.database.path, os.O_RDONLY))

    with patched(Commit, "run", wrong):
        yield
