"""What may go wrong while a store is opened, as one line for the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thincow.errors import ConfigurationError
from thincow.store.connection import DatabaseError


@contextmanager
def in_one_line(data_dir: Path) -> Iterator[None]:
    """Translate the errors of system calls and of SQLite that nobody has a better word for.

    Raises:
        ConfigurationError: in their place.
    """
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"the store in {data_dir} cannot be opened: {error.strerror}"
        ) from error
    except DatabaseError as error:
        raise ConfigurationError(f"the metadata of {data_dir} cannot be opened: {error}") from error
