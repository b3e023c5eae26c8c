"""What may go wrong while a store is opened, as one line for the user."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thincow.errors import CommitError, ConfigurationError, DatabaseBusyError
from thincow.store.connection import DatabaseError


@contextmanager
def in_one_line(data_dir: Path) -> Iterator[None]:
    """Translate the errors of system calls and of SQLite that nobody has a better word for.

    Also those of the commit that says that the store is open, when the disk is full.

    Raises:
        ConfigurationError: in their place.
    """
    try:
        yield
    except DatabaseBusyError:
        raise
    except CommitError as error:
        if error.code != errno.ENOSPC:
            raise
        raise no_room(data_dir) from error
    except OSError as error:
        raise ConfigurationError(
            f"the store in {data_dir} cannot be opened: {error.strerror}"
        ) from error
    except DatabaseError as error:
        raise ConfigurationError(f"the metadata of {data_dir} cannot be opened: {error}") from error


def no_room(data_dir: Path) -> ConfigurationError:
    """Return the error for a disk too full to open a store for writing."""
    return ConfigurationError(
        f"no space is left for the metadata of {data_dir}, and to open a store takes a little: "
        "make room, or mount it read-only"
    )
