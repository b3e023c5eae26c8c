"""Opens a snapshot of a store that another process serves, as one more reader of its log.

While it is open that process cannot begin its log anew, so a long look takes a copy first.
"""

import tempfile
from pathlib import Path

import apsw

from thincow.errors import CorruptStoreError
from thincow.store.connection import Connection, open_connection
from thincow.store.database import DATABASE_NAME
from thincow.store.database_copy import copy_pages
from thincow.store.snapshot import Snapshot


def open_live_snapshot(path: Path, *, private: bool) -> Snapshot:
    """Return a snapshot of the last commit.

    Args:
        path: of the database.
        private: whether to go on with a copy in the directory for temporary files.

    Raises:
        CorruptStoreError: when SQLite cannot read it.
        ThincowError: when there is no room for the copy.
    """
    try:
        live = open_connection(path, read_only=True)
        try:
            if not private:
                return Snapshot(live)
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_schema").fetchall()
            copy = _private_copy(live)
        except BaseException:
            live.close()
            raise
    except apsw.Error as error:
        raise CorruptStoreError(f"{path} cannot be read: {error}") from error
    live.close()
    return Snapshot(copy)


def _private_copy(source: Connection) -> Connection:
    """Copy a database to a file without a name, which goes with its connection."""
    with tempfile.TemporaryDirectory(prefix="thincow-") as name:
        path = Path(name) / DATABASE_NAME
        copy_pages(source, path, None, lambda _part: None)
        copy = open_connection(path, read_only=True, immutable=True)
        # From here on the file is open, and needs its name no more.
        copy.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    return copy
