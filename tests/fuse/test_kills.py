"""Nothing that was synced is lost when the serving process is killed."""

import functools
import random
from pathlib import Path

import pytest

from tests.support.planted_bugs import BUGS, PlantedMount
from tests.torture.kills import KillRounds

ROUNDS = 54


@pytest.mark.timeout(600)
def test_killed_again_and_again_nothing_synced_is_lost(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rounds = KillRounds(tmp_path, seed)
    rounds.run(ROUNDS)
    print(rounds.totals)
    assert rounds.totals.rounds == ROUNDS
    assert rounds.totals.syncs > ROUNDS


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    rounds = KillRounds(tmp_path, 1, functools.partial(PlantedMount, bug=bug))
    with pytest.raises(AssertionError, match="blocks are wrong"):
        rounds.run(ROUNDS)
    print(rounds.totals)
