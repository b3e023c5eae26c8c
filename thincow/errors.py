"""The one error tree. Leaf module: imports nothing of ours.

Every error that a user can meet is a `ThincowError`; its text is one line that says what is wrong
and what to do. `exit_code` is the command's exit status. Which errno a mounted filesystem answers
is decided in one table in `thincow.mount.errno_table`, not here.
"""

from typing import ClassVar


class ThincowError(Exception):
    """Base class: raised when something outside the program keeps it from going on."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """Return the text; what SQLite says of a damaged database may have several lines."""
        return " ".join(super().__str__().splitlines())


class ConfigurationError(ThincowError):
    """Raised when an option, a directory or an upstream cannot be used as asked."""


class UpstreamChangedError(ConfigurationError):
    """Raised when a store was made with upstreams other than the ones that are there now."""


class StoreInUseError(ConfigurationError):
    """Raised when another process holds the store; the text names its pid."""


class StoreMismatchError(ConfigurationError):
    """Raised when data and metadata directory do not belong together, or not to these options."""


class MountPointError(ConfigurationError):
    """Raised when a mount point cannot be used, or cannot be unmounted."""


class NoStoreError(ThincowError):
    """Raised when a directory holds no store, or none that can be examined."""

    exit_code = 3


class CorruptStoreError(ThincowError):
    """Raised when the store's files contradict themselves; `thincow fsck` is the way on."""


class RequestError(ThincowError):
    """Base class of what a single read or write request can fail with."""


class BlockReadError(RequestError):
    """Raised when the first block of a read cannot be read (I/O error, device absent)."""


class ChecksumError(BlockReadError):
    """Raised when the first block of a read differs from its recorded checksum."""


class NoSpaceError(RequestError):
    """Raised when a write needs space that a quota or the filesystem does not give."""


class PastEndError(RequestError):
    """Raised when a write starts at or past the end of the device."""


class FixedSizeError(RequestError):
    """Raised when the size of a device is to change that has a fixed one: a block device's."""


class TooLargeError(RequestError):
    """Raised when a device would get more blocks than can be addressed."""


class ReadOnlyError(RequestError):
    """Raised when something would change a store that is mounted read-only."""


class CommitError(RequestError):
    """Raised when a commit failed but may be retried: disk full, database busy.

    Attributes:
        code: the errno to answer, ENOSPC where freeing space helps.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class DatabaseBusyError(CommitError):
    """Raised when somebody else, a shell perhaps, holds a write transaction of the database."""


class FlushError(RequestError):
    """Raised when a flush could not write everything; the text names device and offset.

    Attributes:
        code: the errno to answer.
    """

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class StoreFailedError(RequestError):
    """Raised after a sync of the store failed: nothing is acknowledged any more in this mount."""
