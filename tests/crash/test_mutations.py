from itertools import count

import pytest

from tests.crash.simulator import simulate
from tests.crash.size_mutations import MUTATIONS

MAX_STATES = 36_000


@pytest.mark.timeout(1200)  # up to a minute of a processor, which may be busy
@pytest.mark.parametrize("name", MUTATIONS)
def test_simulator_notices_a_planted_bug(name):
    failures: list[str] = []
    seeds = count(MUTATIONS[name].first_seed)
    distinct = 0
    while not failures and distinct < MAX_STATES:
        result = simulate(next(seeds), MUTATIONS[name].states, name)
        distinct += result.distinct
        failures = result.failures
    print(f"{distinct} states", *failures)
    assert failures


def test_planted_bugs_are_enough():
    assert len(MUTATIONS) >= 10
