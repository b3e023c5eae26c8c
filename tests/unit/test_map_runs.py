"""Two maps beside each other, against dictionaries of blocks."""

import random

import numpy as np
import pytest

from thincow.block_types import COW_BASE, ZERO, Kind
from thincow.engine.map_runs import RunStream, walk
from thincow.errors import CorruptStoreError
from thincow.store.columns import ExtentColumns

Row = tuple[int, int, int, int]


def stream(rows: list[Row], chunk_rows: int = 3) -> RunStream:
    chunks = [rows[at : at + chunk_rows] for at in range(0, len(rows), chunk_rows)]
    return RunStream(ExtentColumns(*np.array(chunk, np.int64).T) for chunk in chunks)


def as_dictionary(rows: list[Row]) -> dict[int, int]:
    found = {}
    for first, length, kind, target in rows:
        for at in range(length):
            found[first + at] = {
                Kind.UPSTREAM: target + at,
                Kind.COW: COW_BASE + target + at,
                Kind.ZERO: ZERO,
            }[Kind(kind)]
    return found


def random_rows(chance: random.Random) -> list[Row]:
    rows, at = [], 100
    for _ in range(chance.randrange(20)):
        at += chance.choice((0, 0, 1, 5))
        length = chance.choice((1, 1, 2, 7, 30))
        kind = chance.choice(list(Kind))
        rows.append((at, length, int(kind), 0 if kind == Kind.ZERO else chance.randrange(500)))
        at += length
    return rows


@pytest.mark.parametrize("seed", range(200))
def test_walk_covers_what_either_map_has(seed: int) -> None:
    chance = random.Random(seed)
    before, after = random_rows(chance), random_rows(chance)
    has_base = chance.random() < 0.7
    first, second = as_dictionary(before if has_base else []), as_dictionary(after)
    seen = []
    streams = (stream(before) if has_base else None, stream(after))
    for part in walk(*streams):
        for start, length, old, new in zip(*(column.tolist() for column in part), strict=True):
            for at in range(length):
                address = start + at
                assert first.get(address, address) == (old if old == ZERO else old + at)
                assert second.get(address, address) == (new if new == ZERO else new + at)
                seen.append(address)
    assert sorted(set(seen)) == seen
    assert set(seen) >= first.keys() | second.keys()


@pytest.mark.parametrize(
    "rows",
    [
        [(10, 4, 1, 0), (12, 1, 1, 9)],
        [(10, 0, 1, 0)],
        [(10, 1, 3, 0)],
        [(10, 1, 1, -1)],
        [(10, 1, 2, 5)],
        [(10, 2, 0, COW_BASE - 1)],
    ],
)
def test_rows_that_cannot_be_are_refused(rows: list[Row]) -> None:
    with pytest.raises(CorruptStoreError):
        list(walk(None, stream(rows, chunk_rows=1)))
