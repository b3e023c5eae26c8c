"""The oracle of the tests that kill: it must tell old from allowed, and both from damage."""

import time

from tests.support.block_history import BlockHistory, describe, find_violations, stamped

UNIT = 1024
BASE = {"disk": stamped(9, 0, 0, 4 * UNIT)}
SYNCED = stamped(0, 1, UNIT, UNIT)
LATER = stamped(0, 2, UNIT, UNIT)


def make_history() -> tuple[BlockHistory, int]:
    """Write block 1 twice, with a sync in between; return when that began."""
    history = BlockHistory(BASE, UNIT)
    history.end_write(history.begin_write("disk", UNIT, SYNCED))
    synced_ns = time.monotonic_ns()
    history.end_write(history.begin_write("disk", UNIT, LATER))
    return history, synced_ns


def holding(block: bytes) -> dict[str, bytes]:
    return {"disk": BASE["disk"][:UNIT] + block + BASE["disk"][2 * UNIT :]}


def violations(block: bytes) -> list[str]:
    history, synced_ns = make_history()
    return find_violations(history, holding(block), {"disk": synced_ns})


def test_synced_and_later_versions_are_allowed() -> None:
    assert violations(SYNCED) == []
    assert violations(LATER) == []


def test_version_from_before_the_sync_is_stale() -> None:
    (line,) = violations(BASE["disk"][UNIT : 2 * UNIT])
    assert "disk block 1 holds [write 0 of writer 9]" in line
    assert "[write 1 of writer 0] or [write 2 of writer 0]" in line


def test_mixture_of_versions_is_found() -> None:
    (line,) = violations(SYNCED[:512] + LATER[512:])
    assert "holds [write 1 of writer 0, write 2 of writer 0]" in line


def test_content_of_another_place_is_found() -> None:
    assert len(violations(stamped(0, 2, 2 * UNIT, UNIT))) == 1


def test_unwritten_block_must_not_change() -> None:
    history, synced_ns = make_history()
    found = {"disk": holding(LATER)["disk"][: 3 * UNIT] + bytes(UNIT)}
    (line,) = find_violations(history, found, {"disk": synced_ns})
    assert "disk block 3 holds [zeros]" in line


def test_without_a_sync_everything_since_the_base_is_allowed() -> None:
    history, _ = make_history()
    for block in (BASE["disk"][UNIT : 2 * UNIT], SYNCED, LATER):
        assert find_violations(history, holding(block), {}) == []


def test_write_that_was_not_answered_may_be_there_or_not() -> None:
    history = BlockHistory(BASE, UNIT)
    history.begin_write("disk", UNIT, SYNCED)
    later_ns = time.monotonic_ns()
    for block in (BASE["disk"][UNIT : 2 * UNIT], SYNCED):
        assert find_violations(history, holding(block), {"disk": later_ns}) == []


def test_forgetting_keeps_what_may_be_found() -> None:
    history, synced_ns = make_history()
    history.forget_before("disk", synced_ns)
    assert [content for content, _ in history.versions["disk", 1]] == [SYNCED, LATER]
    history.forget_before("disk", time.monotonic_ns())
    assert [content for content, _ in history.versions["disk", 1]] == [LATER]


def test_part_of_a_block_is_laid_over_what_was_there() -> None:
    history = BlockHistory(BASE, UNIT)
    history.end_write(history.begin_write("disk", UNIT - 2, b"abcd"))
    assert history.now("disk", 0) == BASE["disk"][: UNIT - 2] + b"ab"
    assert history.now("disk", 1) == b"cd" + BASE["disk"][UNIT + 2 : 2 * UNIT]
    assert "other content" in describe(history.now("disk", 1))
