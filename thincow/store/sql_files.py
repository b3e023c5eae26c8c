"""Finds the SQL that ships with the program: inside the wheel, or in the checkout."""

import re
from functools import cache
from pathlib import Path

_SCHEMA_FILES = ("tables.sql", "views.sql")


@cache
def _root() -> Path:
    packaged = Path(__file__).parent.parent / "_sql"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent.parent


@cache
def schema_sql() -> str:
    """Return the statements that make the schema of today."""
    return "\n".join((_root() / "schema" / name).read_text() for name in _SCHEMA_FILES)


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """Return (version reached, statements) of every migration, in order, from version 1 on."""
    found = []
    for path in sorted((_root() / "migrations").glob("*.sql")):
        match = re.match(r"(\d{4})_", path.name)
        assert match is not None, f"badly named migration {path.name}"
        found.append((int(match[1]), path.read_text()))
    assert [version for version, _ in found] == list(range(1, len(found) + 1))
    return tuple(found)


def schema_version() -> int:
    """Return the `user_version` of a store made by this program."""
    return migrations()[-1][0]
