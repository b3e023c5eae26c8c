"""Real filesystems over a mount survive what kills it."""

import random

import pytest

from tests.support.mounting import Mount
from tests.torture import filesystems

WORK_S = 3


@pytest.mark.needs_root
@pytest.mark.parametrize("kind", filesystems.KINDS, ids=lambda kind: kind.name)
def test_filesystem_is_whole_after_its_disk_was_cut_off(
    mount: Mount, kind: filesystems.Kind
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    totals = filesystems.run(mount, kind, seed, rounds=1, work_s=WORK_S)
    print(totals)
    assert totals.files > 0
