import pytest

from tests.crash.flush_mutations import MUTATIONS
from tests.crash.simulator import simulate

STATES_PER_SEED = 600
SEEDS = 60


@pytest.mark.parametrize("name", MUTATIONS)
def test_simulator_notices_a_planted_bug(name):
    failures = []
    distinct = 0
    for seed in range(SEEDS):
        result = simulate(seed, STATES_PER_SEED, name)
        distinct += result.distinct
        failures = result.failures
        if failures:
            break
    print(f"{distinct} states", *failures)
    assert failures


def test_planted_bugs_are_enough():
    assert len(MUTATIONS) >= 10
