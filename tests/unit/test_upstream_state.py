"""Marks and reservations of upstream blocks."""

import sys
from types import FrameType

from thincow.engine.upstream_state import UpstreamState
from thincow.store.devices_table import DeviceRow


def test_scattered_blocks_are_marked_in_one_go() -> None:
    """Requests wait meanwhile: run by run it took a second for a batch, and 50 of small blocks."""
    row = DeviceRow(0, "a", 1 << 20, "file", 1, 1)
    runs = [(block, 1) for block in range(0, 4000, 4)]
    state = UpstreamState([])
    calls = 0

    def count(_frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        state.reserve(runs)
        state.mark(runs, drop_hashes=True)
        marked = state.freeze().marks
        state.written(runs[:500], row, {})
        state.release(runs)
    finally:
        sys.setprofile(None)
    assert marked == runs
    assert state.freeze().marks == runs[500:]
    assert not state.is_marked(0, 1997)
    assert state.is_marked(1999, 2)
    assert state.referable(0, 5000) == 2000
    assert calls < len(runs)
