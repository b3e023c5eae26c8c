import pytest

from tests.support.torn_writes import is_torn_write


@pytest.mark.parametrize("found", [b"abcdef", b"abXdef", b"abXYef", b"abXYZf"])
def test_beginning_of_a_write_is_torn(found: bytes) -> None:
    assert is_torn_write(b"abcdef", 2, b"XYZ", found)


@pytest.mark.parametrize("found", [b"abcYef", b"abXdZf", b"abXYZg", b"abXYZ", b"aaXYZf"])
def test_anything_else_is_not(found: bytes) -> None:
    assert not is_torn_write(b"abcdef", 2, b"XYZ", found)


def test_torn_write_may_have_grown_the_file() -> None:
    assert is_torn_write(b"abc", 5, b"XYZ", b"abc\0\0XY")
    assert is_torn_write(b"abc", 2, b"XYZ", b"abXY")
    assert not is_torn_write(b"abc", 5, b"XYZ", b"abc\0\0XZ")
