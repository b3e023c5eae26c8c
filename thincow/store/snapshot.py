"""A consistent view of everything a store's database holds, for looking, never for changing.

Owns one connection in one read transaction: what it shows is one commit, however long it is looked
at. It trusts nothing that it reads: anything that cannot be read as what it should be raises
`CorruptStoreError`, and whether the values make sense is for the caller to judge.

Rows come in chunks of columns. One statement carries thousands of rows as text, which takes as
long as row-by-row reading when alone, but a thread that fetched row by row beside a busy main
thread would wait for the interpreter lock after every row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import apsw
import numpy as np

from thincow.block_types import DEVICE_SHIFT, Kind
from thincow.errors import CommitError, CorruptStoreError, StoreFailedError
from thincow.store import extents_table
from thincow.store.bulk import fetch_rows
from thincow.store.columns import (
    ChecksumColumns,
    ChecksumRow,
    CowColumns,
    CowUse,
    ExtentColumns,
    FingerprintColumns,
    FlushingColumns,
    HashColumns,
    IntColumn,
    MapUse,
    SQLValue,
)
from thincow.store.database import open_read_only
from thincow.store.database_copy import copy_pages
from thincow.store.devices_table import COLUMNS, DeviceRow

CHUNK_ROWS = 4096
_MIN_KEY = -(1 << 63)
_MAX_KEY = (1 << 63) - 1


class Snapshot:
    """One commit of a store.

    Usable in any one thread at a time. The connection is this object's from now on.

    Args:
        connection: an open connection, outside of a transaction.

    Raises:
        CorruptStoreError: when the database cannot be read at all.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        try:
            with _reading("the database"):
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        except CorruptStoreError:
            connection.close()
            raise

    @classmethod
    def open_offline(cls, path: Path, temp_dir: Path | None = None) -> "Snapshot":
        """Open the database of a store that nobody has mounted, writing nothing.

        Raises:
            CorruptStoreError: when SQLite cannot read it.
            OSError: when a file cannot be read or copied.
        """
        try:
            with _reading(path.name):
                return cls(open_read_only(path, temp_dir).reader)
        except (CommitError, StoreFailedError) as error:  # from merging the log into the copy
            raise CorruptStoreError(f"{path.name} cannot be read: {error}") from error

    def copy_to(self, path: Path, vfs: str | None, advance: Callable[[float], None]) -> None:
        """Write the whole database to a new file, see `database_copy.copy_pages`."""
        copy_pages(self._connection, path, vfs, advance)

    def close(self) -> None:
        """End the transaction and close the connection."""
        self._connection.close()

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def application_id(self) -> int:
        """Return the number in the header that says which program a database belongs to."""
        return self._pragma("application_id")

    def user_version(self) -> int:
        """Return the number of the schema's version."""
        return self._pragma("user_version")

    def schema(self) -> list[tuple[str, str, str, str | None]]:
        """Return (type, name, table, sql) of everything in the schema, in no certain order."""
        with _reading("the schema"):
            rows = self._connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema")
            return [(str(a), str(b), str(c), d if d is None else str(d)) for a, b, c, d in rows]

    def integrity_messages(self, limit: int) -> list[str]:
        """Let SQLite check the file; return up to about `limit` lines of what it finds.

        The whole file gets the quick check. The full one costs as much again and finds more only
        in tables with an index, so only those get it, and only when the quick one found nothing.
        Neither evaluates the CHECK constraints of a database that was opened for reading only.
        """
        found = self._check_pragma(f"quick_check({limit:d})")
        if not found:
            with _reading("the schema"):
                indexed = self._connection.execute(
                    "SELECT DISTINCT tbl_name FROM sqlite_schema WHERE type = 'index'"
                ).fetchall()
            for (table,) in indexed:
                quoted = str(table).replace('"', '""')
                found += self._check_pragma(f'integrity_check("{quoted}")')
        return found[:limit]

    def globals(self) -> dict[str, SQLValue]:
        """Return the table `globals`."""
        with _reading("table globals"):
            return {str(k): v for k, v in self._connection.execute("SELECT * FROM globals")}

    def devices(self) -> list[DeviceRow]:
        """Return the table `devices`, by id."""
        query = f"SELECT {COLUMNS} FROM devices ORDER BY id"
        with _reading("table devices"):
            return [
                DeviceRow(
                    int(row[0]),
                    str(row[1]),
                    int(row[2]),
                    str(row[3]),
                    *(None if value is None else int(value) for value in row[4:]),
                )
                for row in self._connection.execute(query)
            ]

    def extents(self, first: int = _MIN_KEY, end: int | None = None) -> Iterator[ExtentColumns]:
        """Yield the table `extents` in chunks; only rows that begin in [first, end)."""
        names = ("first_block", "length", "kind", "target")
        last = _MAX_KEY if end is None else end - 1
        for columns in self._chunks("extents", names, first, last):
            yield ExtentColumns(*columns)

    def cow(self) -> Iterator[CowColumns]:
        """Yield the table `cow` in chunks."""
        for columns in self._chunks("cow", ("first_block", "length", "refs")):
            yield CowColumns(*columns)

    def hashes(self) -> Iterator[HashColumns]:
        """Yield the table `hashes` in chunks."""
        for columns in self._chunks("hashes", ("hash", "kind", "target")):
            yield HashColumns(*columns)

    def checksums(self) -> Iterator[ChecksumColumns]:
        """Yield the table `checksums`, without the sums themselves, in chunks."""
        names = ("first_block", "length", "bits", "length(present)", "length(sums)")
        for columns in self._chunks("checksums", names):
            yield ChecksumColumns(*columns)

    def checksum_rows(self) -> Iterator[ChecksumRow]:
        """Yield the table `checksums` with the sums; rows of other types are left out."""
        query = """
            SELECT first_block, length, bits, present, sums FROM checksums
            WHERE first_block >= ? ORDER BY first_block LIMIT 64"""
        start = _MIN_KEY
        while True:
            with _reading("table checksums"):
                rows = fetch_rows(self._connection, query, (start,))
                _require_ascending([start - 1, *(row[0] for row in rows)])
            for row in rows:
                if list(map(type, row)) == [int, int, int, bytes, bytes]:
                    yield ChecksumRow(*row)
            if not rows or rows[-1][0] == _MAX_KEY:
                return
            start = rows[-1][0] + 1

    def references(self, first_block: int, length: int) -> IntColumn:
        """Return where the contents of the virtual blocks of one window are."""
        values = np.arange(first_block, first_block + length, dtype=np.int64)
        with _reading("table extents"):
            extents_table.load_window(self._connection, first_block, values)
        return values

    def fingerprints(self) -> Iterator[FingerprintColumns]:
        """Yield the table `fingerprints` in chunks."""
        for columns in self._chunks("fingerprints", ("block", "hash")):
            yield FingerprintColumns(*columns)

    def flushing(self) -> Iterator[FlushingColumns]:
        """Yield the table `flushing` in chunks."""
        for columns in self._chunks("flushing", ("first_block", "length")):
            yield FlushingColumns(*columns)

    def is_referenced(self, address: int, window_blocks: int, own_end: int) -> bool:
        """Tell whether any virtual block, that one included, has its content at an upstream block.

        Those from `own_end` on do not show their own place. Scans `extents`: for rare questions.
        """
        with _reading("table extents"):
            return extents_table.is_referenced(self._connection, address, window_blocks, own_end)

    def fingerprints_by_block(self) -> dict[int, int]:
        """Return the table `fingerprints` (it is small): hash by block address."""
        return {
            int(block): int(value)
            for chunk in self.fingerprints()
            for block, value in zip(*chunk, strict=True)
        }

    def map_use(self, device_id: int, own_end: int) -> MapUse:
        """Return what the extents of one device say; `own_end` as in `is_referenced`."""
        query = """
            SELECT count(*), coalesce(sum(iif(kind = ?, length, 0)), 0),
                   coalesce(sum(iif(kind = ?, length, 0)), 0),
                   coalesce(sum(iif(kind = ?, length, 0)), 0),
                   coalesce(sum(max(0, min(length, ? - first_block))), 0)
            FROM extents WHERE first_block >= ? AND first_block < ?"""
        first = device_id << DEVICE_SHIFT
        kinds = map(int, (Kind.UPSTREAM, Kind.COW, Kind.ZERO))
        bindings = (*kinds, own_end, first, first + (1 << 40))
        with _reading("table extents"):
            ((extents, remapped, cow, zero, hidden),) = self._connection.execute(query, bindings)
            own = own_end - first - int(hidden)
            return MapUse(int(extents), own, int(remapped), int(cow), int(zero))

    def cow_use(self) -> CowUse:
        """Return what the counts say; one statement, in C."""
        query = """
            SELECT coalesce(sum(length), 0), coalesce(sum(length * refs), 0),
                   coalesce(max(first_block + length), 0)
            FROM cow"""
        with _reading("table cow"):
            ((live, references, end),) = self._connection.execute(query)
            return CowUse(int(live), int(references), int(end))

    def _chunks(
        self, table: str, names: tuple[str, ...], start: int = _MIN_KEY, last_key: int = _MAX_KEY
    ) -> Iterator[tuple[IntColumn, ...]]:
        """Yield columns of a table in chunks; the first of them must be its integer key."""
        key = names[0]
        row = "||','||".join(f"CAST({name} AS INTEGER)" for name in names)
        query = f"""
            SELECT count(*), max({key}), group_concat(row)
            FROM (SELECT {key}, {row} AS row FROM {table}
                  WHERE {key} BETWEEN ? AND ? ORDER BY {key} LIMIT {CHUNK_ROWS})"""
        while True:
            with _reading(f"table {table}"):
                ((count, last, text),) = self._connection.execute(query, (start, last_key))
                if count == 0:
                    return
                numbers = np.fromstring(text or "", dtype=np.int64, sep=",")
                if numbers.size != count * len(names) or not start <= last:
                    raise ValueError("a value is missing or is no number")
            yield tuple(np.ascontiguousarray(numbers.reshape(-1, len(names)).T))
            if last >= last_key:
                return
            start = last + 1

    def _pragma(self, name: str) -> int:
        with _reading("the header"):
            ((value,),) = self._connection.execute(f"PRAGMA {name}")
            return int(value)

    def _check_pragma(self, pragma: str) -> list[str]:
        lines: list[str] = []
        try:
            for (text,) in self._connection.execute(f"PRAGMA {pragma}"):
                lines += str(text).splitlines()
        except apsw.Error as error:  # the check itself gives up on some damage
            lines.append(str(error))
        return [line for line in lines if line != "ok" and not line.startswith("*** in database")]


def _require_ascending(keys: list[object]) -> None:
    """Check keys of a table, which may be anything when it is damaged."""
    numbers = [key for key in keys if isinstance(key, int)]
    if len(numbers) != len(keys) or any(a >= b for a, b in pairwise(numbers)):
        raise ValueError("keys are out of order")


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn whatever reading a damaged database can raise into `CorruptStoreError`."""
    try:
        yield
    except (apsw.Error, ValueError, TypeError, OverflowError) as error:
        raise CorruptStoreError(f"{what} cannot be read: {error}") from error
