"""The only place that says which errno a request is answered with."""

import errno
from typing import Final

from thincow.errors import (
    BlockReadError,
    CommitError,
    NoSpaceError,
    PastEndError,
    ReadOnlyError,
    RequestError,
    StoreFailedError,
)

_ERRNO: Final[dict[type[RequestError], int]] = {
    BlockReadError: errno.EIO,
    CommitError: errno.ENOSPC,
    NoSpaceError: errno.ENOSPC,
    PastEndError: errno.ENOSPC,
    ReadOnlyError: errno.EROFS,
    RequestError: errno.EIO,
    StoreFailedError: errno.EIO,
}
_OUT_OF_SPACE: Final = {errno.ENOSPC, errno.EDQUOT}


def errno_of(error: RequestError) -> int:
    """Return the errno for an error of the engine.

    A commit can be retried because it lacked space or found the database busy, which is answered
    as lack of space; one that met an I/O error before anything was at stake answers that.
    """
    cause = error.__cause__
    if isinstance(error, CommitError) and isinstance(cause, OSError):
        return errno.ENOSPC if cause.errno in _OUT_OF_SPACE else errno.EIO
    return next(_ERRNO[kind] for kind in type(error).__mro__ if kind in _ERRNO)
