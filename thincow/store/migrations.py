"""Brings an older database to the schema of today, one numbered step and transaction at a time."""

import logging
from pathlib import Path

import apsw

from thincow.errors import CorruptStoreError, StoreMismatchError
from thincow.store import sql_files
from thincow.store.connection import APPLICATION_ID, commit_error, transaction

_log = logging.getLogger(__name__)


def version_of(db: apsw.Connection, where: Path) -> int:
    """Return the schema version of a database.

    Raises:
        CorruptStoreError: when it is no thincow database.
        StoreMismatchError: when it was made by a newer program.
    """
    if db.pragma("application_id") != APPLICATION_ID:
        raise CorruptStoreError(f"{where} is not a thincow store")
    version = db.pragma("user_version")
    if not isinstance(version, int) or version < 1:
        raise CorruptStoreError(f"{where} has no schema version: run 'thincow fsck'")
    if version > sql_files.schema_version():
        raise StoreMismatchError(
            f"{where} was made by a newer thincow (schema {version}, this program knows "
            f"{sql_files.schema_version()}): use that version"
        )
    return version


def migrate(db: apsw.Connection, where: Path) -> None:
    """Run the steps that are missing; first copies the database to NAME.vN.

    Raises:
        CommitError, StoreFailedError: when the database or the copy cannot be written.
    """
    version = version_of(db, where)
    if version == sql_files.schema_version():
        return
    backup = where.with_name(f"{where.name}.v{version}")
    # A killed migration may have left part of one.
    backup.unlink(missing_ok=True)
    try:
        db.execute("VACUUM INTO ?", (str(backup),))
    except apsw.Error as error:
        raise commit_error(error) from error
    for reached, statements in sql_files.migrations()[version:]:
        with transaction(db):
            db.execute(statements)
            db.execute(f"PRAGMA user_version = {reached}")
        _log.warning("%s: schema brought to version %d (old one: %s)", where, reached, backup)


def create_schema(db: apsw.Connection) -> None:
    """Make the schema of today in an empty database, inside the caller's transaction."""
    db.execute(sql_files.schema_sql())
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {sql_files.schema_version()}")
