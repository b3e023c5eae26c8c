"""Damages the files of a store in every way that a disk, a user or an enemy may.

Everything follows from one `random.Random`, so a seed replays a case.
"""

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from random import Random

Files = dict[str, bytes]

DATABASE = "metadata.db"
_HUGE = (0, -1, 1, 255, 1 << 31, 1 << 40, 1 << 61, 1 << 62, (1 << 63) - 1, -(1 << 63))
_VALUES = (*map(str, _HUGE), "'text'", "x'00ff'", "1.5", "NULL", "zeroblob(70000)", "'4096'")
_COLUMNS = {
    "globals": ("key", "value"),
    "devices": ("id", "name", "size_bytes", "type", "inode", "mtime_ns"),
    "fingerprints": ("block", "hash"),
    "extents": ("first_block", "length", "kind", "target"),
    "flushing": ("first_block", "length"),
    "cow": ("first_block", "length", "refs"),
    "hashes": ("hash", "kind", "target"),
    "checksums": ("first_block", "length", "bits", "present", "sums"),
}
_HOSTILE_SCHEMAS = (
    "CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM extents; END",
    "CREATE TRIGGER t BEFORE UPDATE ON globals BEGIN SELECT RAISE(FAIL, 'no'); END",
    "CREATE TABLE sqlite_stat1 (tbl, idx, stat)",
    "CREATE TABLE big AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n"
    " LIMIT 2000) SELECT x FROM n",
    "CREATE INDEX i ON {table} (abs({column}))",
    "ALTER TABLE {table} RENAME TO other",
    "ALTER TABLE {table} ADD COLUMN more DEFAULT (1)",
    "DROP VIEW savings",
)
_HOSTILE_VIEWS = (
    "CREATE VIEW {table} AS SELECT * FROM {table}",
    "CREATE VIEW {table} AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
    " SELECT x, x, x, x FROM n",
    "CREATE VIEW {table} AS SELECT randomblob(1000000000) AS {column}",
    "CREATE VIRTUAL TABLE {table} USING fts5(content)",
)


def damage(files: Files, others: list[Files], work: Path, chance: Random) -> tuple[str, Files]:
    """Damage a copy of the files of a store; return in words how, and the result.

    Args:
        files: contents by name.
        others: files of other stores.
        work: an empty directory to work in; is left empty.
        chance: decides everything.
    """
    kinds: list[tuple[Callable[[Files], str], int]] = [
        (lambda copy: _flip(copy, chance), 6),
        (lambda copy: _truncate(copy, chance), 2),
        (lambda copy: _overwrite_page(copy, chance), 2),
        (lambda copy: _swap(copy, others, chance), 2),
        (lambda copy: _edit(copy, _wrong_values(chance), work), 4),
        (lambda copy: _edit(copy, _hostile_schema(chance), work), 2),
        (lambda copy: _edit(copy, _other_version(chance), work), 1),
    ]
    copy = dict(files)
    words = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        (kind,) = chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        words.append(kind(copy))
    return ", ".join(words), copy


def _some_file(files: Files, chance: Random) -> str:
    names = sorted(files)
    return chance.choices(names, [6 if name.startswith(DATABASE) else 1 for name in names])[0]


def _flip(files: Files, chance: Random) -> str:
    name = _some_file(files, chance)
    content = bytearray(files[name])
    if not content:
        return "nothing"
    times = chance.choice((1, 1, 3, 30))
    for _ in range(times):
        at = chance.choice(
            (chance.randrange(len(content)), chance.randrange(min(4096, len(content))))
        )
        size = chance.choice((1, 1, 2, 4, 8, 512))
        if chance.random() < 0.5:
            content[at] ^= 1 << chance.randrange(8)
        else:
            filling = chance.choice((b"\0", b"\xff", chance.randbytes(1)))
            content[at : at + size] = (filling * size)[: len(content) - at]
    files[name] = bytes(content)
    return f"{times} flips in {name}"


def _truncate(files: Files, chance: Random) -> str:
    name = _some_file(files, chance)
    size = chance.choice((0, 1, 100, 512, 4096, chance.randrange(len(files[name]) + 1)))
    if chance.random() < 0.2:
        del files[name]
        return f"{name} removed"
    files[name] = files[name][:size]
    return f"{name} cut to {size}"


def _overwrite_page(files: Files, chance: Random) -> str:
    if DATABASE not in files:
        return "nothing"
    content = files[DATABASE]
    pages = max(1, len(content) // 4096)
    page, source = chance.randrange(pages), chance.randrange(pages)
    filling = chance.choice((bytes(4096), b"\xff" * 4096, content[source * 4096 :][:4096]))
    files[DATABASE] = content[: page * 4096] + filling + content[(page + 1) * 4096 :]
    return f"page {page + 1} overwritten"


def _swap(files: Files, others: list[Files], chance: Random) -> str:
    name = _some_file(files, chance)
    other = chance.choice(others)
    source = chance.choice((name, _some_file(other, chance)))
    files[name] = other.get(source, b"")
    return f"{name} is another's {source}"


def _wrong_values(chance: Random) -> list[str]:
    statements = []
    for _ in range(chance.choice((1, 1, 3))):
        table = chance.choice(sorted(_COLUMNS))
        column = chance.choice(_COLUMNS[table])
        value = chance.choice(_VALUES)
        row = f"(SELECT {_COLUMNS[table][0]} FROM {table} LIMIT 1 OFFSET {chance.randrange(8)})"
        values = ", ".join(chance.choice(_VALUES) for _ in _COLUMNS[table])
        statements.append(
            chance.choice(
                (
                    f"UPDATE {table} SET {column} = {value} WHERE {_COLUMNS[table][0]} = {row}",
                    f"UPDATE OR IGNORE {table} SET {column} = {value}",
                    f"INSERT OR REPLACE INTO {table} VALUES ({values})",
                    f"DELETE FROM {table}",
                )
            )
        )
    return statements


def _hostile_schema(chance: Random) -> list[str]:
    table = chance.choice(sorted(_COLUMNS))
    column = _COLUMNS[table][0]
    if chance.random() < 0.5:
        statement = chance.choice(_HOSTILE_SCHEMAS)
        return [statement.format(table=table, column=column)]
    statement = chance.choice(_HOSTILE_VIEWS)
    return [f"DROP TABLE {table}", statement.format(table=table, column=column)]


def _other_version(chance: Random) -> list[str]:
    number = chance.choice((0, 2, 99, -1, (1 << 31) - 1))
    return [f"PRAGMA {chance.choice(('user_version', 'application_id'))} = {number}"]


def _edit(files: Files, statements: Iterable[str], work: Path) -> str:
    """Run statements on the database, as far as SQLite lets us."""
    names = [name for name in files if name in (DATABASE, f"{DATABASE}-wal")]
    for name in names:
        (work / name).write_bytes(files.pop(name))
    try:
        with closing(sqlite3.connect(work / DATABASE, isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                connection.execute(statement)
    except (sqlite3.Error, OverflowError):
        pass  # it was damaged before, or the value was refused
    for path in work.iterdir():
        if path.name in (DATABASE, f"{DATABASE}-wal"):
            files[path.name] = path.read_bytes()
        path.unlink()
    return "; ".join(statements)
