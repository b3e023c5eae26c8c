"""A flush that is killed loses nothing and goes on."""

import random
from pathlib import Path

import pytest

from tests.torture.flush_kills import FlushKillRounds

ROUNDS = 10


@pytest.mark.timeout(600)
def test_flush_killed_again_and_again_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rounds = FlushKillRounds(tmp_path, seed)
    rounds.run(ROUNDS)
    print(rounds.totals)
    assert rounds.totals.rounds == ROUNDS
    assert rounds.totals.unfinished > 0
