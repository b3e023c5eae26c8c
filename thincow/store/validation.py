"""What must be right in `metadata.db` before anything in it is used."""

from pathlib import Path

import apsw

from thincow.errors import CorruptStoreError, StoreMismatchError
from thincow.store import globals_table
from thincow.store.database import expected_schema, schema_of
from thincow.store.globals_table import Globals
from thincow.store.migrations import version_of
from thincow.store.sql_files import schema_version


def identify(db: apsw.Connection, path: Path) -> Globals:
    """Read what a database of this or an older schema says of the store.

    Raises:
        CorruptStoreError: not a thincow database, or damaged.
        StoreMismatchError: made by a newer program.
    """
    try:
        version_of(db, path)
        return globals_table.load(db)
    except apsw.Error as error:
        raise CorruptStoreError(f"{path} is damaged ({error}): run 'thincow fsck'") from error


def require_current(db: apsw.Connection, path: Path) -> None:
    """Refuse a database of an older schema, which was not migrated since nothing may be written.

    Raises:
        StoreMismatchError: when it is one.
    """
    version = version_of(db, path)
    if version < schema_version():
        raise StoreMismatchError(
            f"{path} was made by an older thincow (schema {version}): open it once for writing"
        )


def validate(db: apsw.Connection, path: Path) -> Globals:
    """Check what must be right before anything in a database is used.

    Raises:
        CorruptStoreError: not a thincow database, or damaged.
        StoreMismatchError: made by a newer program.
    """
    try:
        version_of(db, path)
        if schema_of(db) != expected_schema():
            raise CorruptStoreError(
                f"{path} does not have the schema of thincow: run 'thincow fsck'"
            )
        return globals_table.load(db)
    except apsw.Error as error:
        raise CorruptStoreError(f"{path} is damaged ({error}): run 'thincow fsck'") from error


def quick_check(db: apsw.Connection, path: Path) -> None:
    """Let SQLite check the structure of the whole file.

    Raises:
        CorruptStoreError: when it finds anything.
    """
    try:
        rows = db.execute("PRAGMA quick_check(1)").fetchall()
    except apsw.Error as error:
        rows = [(str(error),)]
    if rows != [("ok",)]:
        raise CorruptStoreError(f"{path} is damaged ({rows[0][0]}): run 'thincow fsck'")
