"""Gives upstream files the sizes of their devices, as part of a flush.

Growing comes before blocks are written, cutting after. To cut upstream counts as overwriting every
block behind the cut: nobody may refer to them. Where a device was cut and has grown again, upstream
is cut to what is still shown of it, and then grown: what was in between is zero then.

A size is changed in this order: the new size durably in the store, with everything forgotten that
was known about blocks behind a cut; upstream, synced; then what upstream is like now.
"""

import errno
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from thincow.engine.device import Device
from thincow.engine.flush_steps import FlushTools, Pause, Step, settle
from thincow.engine.flush_write import UpstreamResize
from thincow.engine.flush_writers import UpstreamWriters
from thincow.errors import FlushError
from thincow.store import extents_table
from thincow.store.devices_table import DeviceRow
from thincow.store.upstream_writer import UpstreamWriter


def refuse_fixed_sizes(devices: list[Device]) -> None:
    """Check that no device has another size than upstream where upstream's cannot change.

    Raises:
        FlushError: naming the device.
    """
    for device in devices:
        if device.row.type == "block" and device.size_bytes != device.row.size_bytes:
            raise FlushError(
                f"{device.name} has {device.size_bytes} bytes, but the block device upstream has "
                f"{device.row.size_bytes} and cannot change its size",
                errno.EFBIG,
            )


def grow_upstreams(
    tools: FlushTools, devices: list[Device], writers: UpstreamWriters
) -> Generator[Step, None, int]:
    """Let upstream files grow to the sizes of their devices; return how many did.

    What a flush before has left unfinished comes first. Devices that were cut wait: what was cut
    has to go from upstream before.

    Raises:
        FlushError: when one cannot.
    """
    resized = 0
    for device in devices:
        row = device.row
        if row.flush_bytes is not None:
            # A flush that was to resize it has failed: nobody knows which size is durable.
            yield from settle(tools)
            yield from _resize(tools, device, writers.open(device), row.flush_bytes)
            row = device.row
        if row.seen_bytes > row.size_bytes and row.shown_blocks is None:
            yield from settle(tools)
            yield from _resize(tools, device, writers.open(device), row.seen_bytes)
            resized += 1
    return resized


@dataclass(frozen=True, slots=True)
class Cuts:
    """How many upstream files were cut, and why others were not, a sentence each."""

    done: int
    waiting: list[str]


def cut_upstreams(
    tools: FlushTools, devices: list[Device], writers: UpstreamWriters
) -> Generator[Step, None, Cuts]:
    """Cut upstream files where nobody shows what is behind.

    Raises:
        FlushError: when that failed.
    """
    resized = 0
    waiting = []
    for device in devices:
        size_bytes = _size_to_cut_to(device, tools.source.block_size)
        if size_bytes < device.row.size_bytes:
            # What is cut loses its entries in the table: none may come after that.
            tools.parts.hashes.hurry()
            yield from settle(tools)
            first = device.first_block + size_bytes // tools.source.block_size
            behind = [(first, device.upstream_end - first)]
            tools.parts.upstream.reserve(behind)
            try:
                if _is_needed(tools, device, size_bytes):
                    waiting.append(
                        f"{device.name} cannot be cut to {size_bytes} bytes, since other blocks "
                        "still show what is behind: flush all devices"
                    )
                    continue
                yield from _resize(tools, device, writers.open(device), size_bytes)
            finally:
                tools.parts.upstream.release(behind)
            resized += 1
    return Cuts(resized, waiting)


def _size_to_cut_to(device: Device, block_size: int) -> int:
    """Return how much of upstream is still shown, or will be when all is flushed."""
    row = device.row
    shown_bytes = row.size_bytes if row.shown_blocks is None else row.shown_blocks * block_size
    return min(shown_bytes, row.seen_bytes)


def _is_needed(tools: FlushTools, device: Device, size_bytes: int) -> bool:
    """Tell whether any block shows what is behind a cut. No commit may be under way.

    The block that is cut in two counts unless it is its own content: then its rest is zero.
    """
    block_map, block_size = tools.parts.block_map, tools.source.block_size
    first = device.first_block + size_bytes // block_size
    if size_bytes % block_size and block_map.reference(first) == first:
        first += 1
    end = device.upstream_end
    if extents_table.load_users(tools.reader, first, end):
        return True
    for start, _, values in block_map.changed_windows():
        own = np.arange(start, start + len(values))
        if ((values >= first) & (values < end) & (values != own)).any():
            return True
    return False


def _resize(
    tools: FlushTools, device: Device, writer: UpstreamWriter, size_bytes: int
) -> Generator[Step, None, None]:
    """Give upstream a new size; when it is cut, nobody refers to what is behind the cut.

    Raises:
        FlushError: when that failed. When it is not known which size is durable, both are kept in
            the store.
    """
    block_size = tools.source.block_size
    before, end = device.row, device.upstream_end
    _note(tools, device, replace(before, flush_bytes=size_bytes))
    if size_bytes < device.row.size_bytes:
        cut = device.first_block + size_bytes // block_size
        tools.parts.upstream.forget(cut, end)
        while tools.contents.is_being_read(cut, end - cut):
            yield Pause.WAIT
    yield from settle(tools)
    step = UpstreamResize(writer, size_bytes)
    yield step
    if step.error is not None:
        is_untouched = (writer.size_bytes, writer.mtime_ns()) == (
            before.size_bytes,
            before.mtime_ns,
        )
        if is_untouched and before.flush_bytes is None:
            _note(tools, device, replace(device.row, flush_bytes=None))
        raise FlushError(
            f"upstream device {device.name} cannot be given {size_bytes} bytes: "
            f"{step.error.strerror}",
            step.error.errno or errno.EIO,
        )
    # What is shown keeps its size, also when a client has just made it that of upstream before.
    found = replace(
        device.row,
        size_bytes=writer.size_bytes,
        mtime_ns=writer.mtime_ns(),
        virtual_bytes=device.size_bytes,
        flush_bytes=None,
    )
    _note(tools, device, found.normal(block_size))
    tools.parts.upstream.unmark(device.upstream_end, end)
    yield Pause.COMMIT


def _note(tools: FlushTools, device: Device, row: DeviceRow) -> None:
    """Take over what upstream is like, or will be."""
    device.update(row)
    tools.parts.upstream.update_row(row)
    assert device.upstream is not None
    device.upstream.size_bytes = device.readable_bytes
    tools.source.upstream_fds[device.id] = (
        device.upstream.fd,
        device.first_block,
        device.readable_bytes,
    )
