"""What clients are answered when a request fails."""

import errno
import inspect

import pytest

from thincow import errors
from thincow.errors import CommitError, FlushError, RequestError
from thincow.mount.errno_table import errno_of

EXPECTED = {
    "BlockReadError": errno.EIO,
    "ChecksumError": errno.EIO,
    "NoSpaceError": errno.ENOSPC,
    "FixedSizeError": errno.EPERM,
    "TooLargeError": errno.EFBIG,
    "PastEndError": errno.ENOSPC,
    "ReadOnlyError": errno.EROFS,
    "RequestError": errno.EIO,
    "StoreFailedError": errno.EIO,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_request_errors_have_the_errno_that_tools_expect(name: str) -> None:
    assert errno_of(getattr(errors, name)("text")) == EXPECTED[name]


def test_failed_commit_knows_its_errno() -> None:
    assert errno_of(CommitError("full", errno.ENOSPC)) == errno.ENOSPC
    assert errno_of(CommitError("broken", errno.EIO)) == errno.EIO
    assert errno_of(FlushError("in use", errno.EBUSY)) == errno.EBUSY


def test_no_request_error_is_forgotten() -> None:
    kinds = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, RequestError)
    }
    assert kinds == {*EXPECTED, "CommitError", "DatabaseBusyError", "FlushError"}
