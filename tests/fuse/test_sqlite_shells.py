"""Shells on the database of a mount at work do no harm."""

import random
from pathlib import Path

import pytest

from tests.torture import shells

SECONDS = 50


@pytest.mark.timeout(300)
def test_shells_that_come_and_go_cost_no_commit(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    totals = shells.run(tmp_path, seed, SECONDS)
    print(totals)
    assert totals.shells.opened > SECONDS
    assert totals.shells.read_holds > 0
    assert totals.shells.write_holds > 0
    assert totals.shells.killed > 0
