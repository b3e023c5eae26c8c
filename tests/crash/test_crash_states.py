import os
import time

import pytest

from tests.crash.campaign import run_campaign

STATES = 20_000
SEEDS = 8


@pytest.mark.timeout(1200)  # a minute of two processors, which may be busy
def test_what_a_power_cut_leaves_is_a_commit():
    begin = time.monotonic()
    campaign = run_campaign(STATES, SEEDS, os.cpu_count() or 1)
    print(campaign.summary(time.monotonic() - begin))
    assert campaign.failures == []
    assert campaign.distinct >= STATES
