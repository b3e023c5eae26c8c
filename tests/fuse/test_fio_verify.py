"""fio finds again what it wrote."""

import random

import pytest

from tests.support.mounting import Mount
from tests.torture import fio_verify

SIZE = 64 << 20


@pytest.mark.parametrize("way", fio_verify.WAYS)
def test_fio_verifies_its_random_writes(mount: Mount, way: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    print(f"{fio_verify.run(mount, way, seed, SIZE):.0f} s")
