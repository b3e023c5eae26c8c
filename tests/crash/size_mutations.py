"""Planted bugs in changes of sizes, registered beside the others. See `mutations`."""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from tests.crash.flush_mutations import MUTATIONS
from tests.crash.mutations import mutation
from tests.crash.setting import Setting, do_nothing, patched
from thincow.engine import flush_resize
from thincow.engine.device import Device
from thincow.engine.resize import Resizer
from thincow.engine.upstream_state import UpstreamState
from thincow.store.devices_table import DeviceRow
from thincow.store.upstream_writer import UpstreamWriter

__all__ = ["MUTATIONS"]


def _resizing(setting: Setting) -> Setting:
    """Change sizes and flush often."""
    options = replace(setting.options, max_cow_blocks=None, hash_table_bytes=4096)
    return replace(
        setting, steps=60, flushes=15.0, truncates=30.0, fails_upstream=0.0, options=options
    )


@mutation(_resizing, states=120)
def upstream_resized_before_the_commit() -> Iterator[None]:
    """Neither the new size nor what no longer refers to what is cut is durable."""

    def wrong(_: object) -> Generator[Any, None, None]:
        yield from ()

    with patched(flush_resize, "settle", wrong):
        yield


@mutation(_resizing, states=120)
def new_size_of_upstream_not_synced() -> Iterator[None]:
    def wrong(self: UpstreamWriter, size_bytes: int) -> None:
        self._disk.truncate(self._fd, size_bytes)
        self.size_bytes = size_bytes

    with patched(UpstreamWriter, "resize", wrong):
        yield


@mutation(_resizing, states=120)
def upstream_cut_where_others_show_it() -> Iterator[None]:
    with patched(flush_resize, "_is_needed", lambda *_: False):
        yield


@mutation(_resizing, states=120)
def cut_part_of_upstream_shown_when_it_grows_again() -> Iterator[None]:
    def wrong(self: Device, size_bytes: int) -> DeviceRow:
        return replace(self.row, virtual_bytes=size_bytes).normal(self._block_size)

    with patched(Device, "row_with_size", wrong):
        yield


@mutation(_resizing, states=120)
def rest_of_a_cut_block_kept() -> Iterator[None]:
    with patched(Resizer, "_zero_rest_of_block", do_nothing):
        yield


@mutation(_resizing, states=120)
def new_size_committed_with_a_later_epoch() -> Iterator[None]:
    """What was cut is let go in one commit, and the size that goes with it comes in the next."""
    right = UpstreamState.freeze

    def wrong(self: UpstreamState) -> Any:
        frozen = right(self)
        late, frozen_rows = getattr(self, "_late", {}), frozen.rows
        self._late = frozen_rows  # type: ignore[attr-defined]
        return replace(frozen, rows=late)

    with patched(UpstreamState, "freeze", wrong):
        yield
