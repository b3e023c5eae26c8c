"""A device file holds what was written to it, however it is read and written."""

import random
from pathlib import Path

import pytest

from tests.conftest import NewMount
from tests.support.planted_bugs import PlantedMount
from tests.torture import fsx

OPERATIONS = 10_000
WAYS = list(fsx.Way)


@pytest.mark.parametrize("way", WAYS)
def test_file_holds_what_random_operations_left(new_mount: NewMount, way: fsx.Way) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    outcome = fsx.run(new_mount("store"), way, seed, OPERATIONS)
    print(outcome)
    assert outcome.mismatch == ""
    assert outcome.operations == OPERATIONS


@pytest.mark.parametrize("way", WAYS)
def test_forgotten_write_is_found(tmp_path: Path, way: fsx.Way) -> None:
    mount = PlantedMount(tmp_path / "store", "forgets-writes")
    try:
        outcome = fsx.run(mount, way, 1, OPERATIONS)
    finally:
        mount.close()
    print(outcome)
    assert outcome.mismatch
