"""The plan of a flush against a plain model, and against what the flush then does."""

from collections import Counter

import numpy as np
import pytest

from tests.property.test_flush_cycles import cycles_of
from tests.property.test_flush_differential import Case, make_case
from tests.support.engines import BLOCK, EngineStore, NewStore
from thincow.engine.flush_cycles import Cycles
from thincow.engine.flush_plan import FlushPlan
from thincow.engine.runs import merge_numbers

CASES = 30


def plan_of(store: EngineStore) -> FlushPlan:
    with store.engine.snapshot() as snapshot:
        plan = store.engine.flush.plan(snapshot)
    assert FlushPlan.from_json(plan.as_json()) == plan
    return plan


def check_plan(case: Case, plan: FlushPlan) -> None:
    """Compare a plan with what a look at each block tells."""
    places = {name: case.store.places(name) for name in case.shown}
    ids = {name: index for index, name in enumerate(places)}
    moved: dict[int, int] = {}
    shown: Counter[tuple[str, str]] = Counter()
    for name, blocks in places.items():
        dirty = [index for index, place in enumerate(blocks) if place != "own"]
        (device,) = (device for device in plan.devices if device.name == name)
        upstream = (case.store.upstream_dir / name).read_bytes()
        equal = sum(
            upstream[at * BLOCK : (at + 1) * BLOCK]
            == case.shown[name][at * BLOCK : (at + 1) * BLOCK]
            for at in dirty
        )
        assert device.equal_bytes <= equal * BLOCK
        assert device.write_bytes + device.equal_bytes == len(dirty) * BLOCK
        runs = merge_numbers(np.array(dirty, np.int64))
        runs.sort(key=lambda run: -run[1])
        size = len(case.shown[name])
        assert [(part.offset_bytes, part.length_bytes) for part in device.ranges] == [
            (at * BLOCK, min(length * BLOCK, size - at * BLOCK)) for at, length in runs[:10]
        ]
        for other, theirs in places.items():
            targets = {place for place in theirs if place.startswith(f"{name} ")}
            used = {int(place.split()[1]) for place in targets} & set(dirty)
            if other != name and used:
                shown[name, other] = len(used) * BLOCK
        for at, place in enumerate(blocks):
            if place.split()[0] in ids:
                other, number = place.split()
                moved[ids[name] * 1000 + at] = ids[other] * 1000 + int(number)
    told = {(d.name, other): size for d in plan.devices for other, size in d.shown_by.items()}
    assert told == dict(shown)
    cycles = cycles_of(moved)
    assert (plan.cycles, plan.cycle_bytes) == (cycles.number, cycles.blocks * BLOCK)
    assert plan.space_bytes == (BLOCK if cycles != Cycles(0, 0) else 0)


@pytest.mark.parametrize("seed", range(1000, 1000 + CASES))
def test_plan_is_what_the_flush_does(seed: int, new_store: NewStore) -> None:
    case, order = make_case(seed, new_store)
    for name in sorted(case.shown):
        if case.chance.random() < 0.3:
            # Nothing knows these contents yet, so they are stored although upstream has them.
            case.store.restart(hash_table_bytes=256)
            upstream = (case.store.upstream_dir / name).read_bytes()
            case.write(name, 0, upstream[: 4 * BLOCK])
    plan = plan_of(case.store)
    check_plan(case, plan)
    biggest = [part.length_bytes for _, part in plan.biggest_ranges(5)]
    assert biggest == sorted(biggest, reverse=True)
    case.flush(order)
    case.check_flushed()
    stats = {device.name: device.stats for device in case.store.engine.devices}
    for device in plan.devices:
        done = stats[device.name].flush_writes + stats[device.name].flush_equal
        assert done * BLOCK == device.write_bytes + device.equal_bytes
        assert stats[device.name].flush_equal * BLOCK >= device.equal_bytes
    after = plan_of(case.store)
    assert (after.write_bytes, after.equal_bytes, after.cycles) == (0, 0, 0)
    assert after.biggest_ranges(5) == []
