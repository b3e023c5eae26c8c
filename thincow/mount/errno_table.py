"""The only place that says which errno a request is answered with."""

import errno
from typing import Final

from thincow.errors import (
    BlockReadError,
    CommitError,
    FixedSizeError,
    FlushError,
    NoSpaceError,
    PastEndError,
    ReadOnlyError,
    RequestError,
    StoreFailedError,
    TooLargeError,
)

_ERRNO: Final[dict[type[RequestError], int]] = {
    BlockReadError: errno.EIO,
    FixedSizeError: errno.EPERM,
    NoSpaceError: errno.ENOSPC,
    PastEndError: errno.ENOSPC,
    ReadOnlyError: errno.EROFS,
    RequestError: errno.EIO,
    StoreFailedError: errno.EIO,
    TooLargeError: errno.EFBIG,
}


def errno_of(error: RequestError) -> int:
    """Return the errno for an error of the engine; a failed commit or flush knows its own."""
    if isinstance(error, CommitError | FlushError):
        return error.code
    return next(_ERRNO[kind] for kind in type(error).__mro__ if kind in _ERRNO)
