"""Fixtures and options of the random tests."""

import zlib

import pytest

from tests.support.engines import new_store, store

__all__ = ["new_store", "store"]

DEFAULT_OPERATIONS = 10_000


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("random tests")
    group.addoption(
        "--operations", type=int, help=f"operations in all (default: {DEFAULT_OPERATIONS})"
    )
    group.addoption("--first-seed", type=int, help="seed of the first of the random tests")


@pytest.fixture(autouse=True)
def _entries_in_arrays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep staged hash entries as large requests do in half of the tests: theirs are small."""
    if zlib.crc32(request.node.name.encode()) & 1:
        monkeypatch.setattr("thincow.engine.staged_entries._FEW", 1)
        monkeypatch.setattr("thincow.engine.staged_entries._MANY_SINGLES", 2)


@pytest.fixture
def operations(request: pytest.FixtureRequest) -> int:
    """How many operations all seeds together are to do."""
    # The options are unknown when this directory is collected as a part of all tests.
    return request.config.getoption("--operations", None) or DEFAULT_OPERATIONS


@pytest.fixture
def first_seed(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--first-seed", None) or 0
