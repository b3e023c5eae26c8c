"""Fixtures that every kind of test shares."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.mounting import Mount

NewMount = Callable[..., Mount]


@pytest.fixture
def new_mount(tmp_path: Path) -> Iterator[NewMount]:
    """Make stores with mount points; at the end all are unmounted and checked."""
    with ExitStack() as stack:

        def make(name: str, upstream: Path | None = None) -> Mount:
            mount = Mount(tmp_path / name, upstream)
            stack.callback(mount.close)
            return mount

        yield make


@pytest.fixture
def mount(new_mount: NewMount) -> Mount:
    """A store with an upstream directory to be filled, and a mount point; not yet mounted."""
    return new_mount("store")
