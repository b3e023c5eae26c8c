"""Flush: brings virtual devices to their upstream, in batches that can be cut at any instant.

A generator: between its steps it runs in the thread that serves requests; what it yields is done
for it elsewhere. The protocol, for one batch:

1. commit; choose blocks that nobody else refers to; reserve them, so that nobody can begin to;
2. wait for reads of them; pin the sources; mark them durably;
3. write and sync upstream;
4. make them identity, unless a client rewrote them meanwhile; commit; unpin and release.

Where others do refer to blocks (chains, cycles), their contents may be copied to the COW store
first.
"""

import errno
import time
from collections.abc import Generator, Sequence
from typing import Final

import numpy as np

from thincow.block_types import COW_BASE
from thincow.engine.block_map import BlockMap
from thincow.engine.block_ranges import BlockRanges
from thincow.engine.device import Device
from thincow.engine.flush_bad_blocks import BadBlocks
from thincow.engine.flush_copy import copy_needed
from thincow.engine.flush_order import BatchSize, FlushOrder
from thincow.engine.flush_resize import cut_upstreams, grow_upstreams, refuse_fixed_sizes
from thincow.engine.flush_selection import FlushSelector, Selection
from thincow.engine.flush_steps import FlushTools, Pause, Step, settle
from thincow.engine.flush_users import describe_waiting
from thincow.engine.flush_write import BatchWrite, new_buffers
from thincow.engine.flush_writers import UpstreamWriters
from thincow.engine.free_runs import Run
from thincow.engine.runs import distinct, merge_numbers
from thincow.engine.upstream_state import row_after_write
from thincow.errors import FlushError
from thincow.store import devices_table, extents_table
from thincow.store.connection import DatabaseError

_FEW: Final = 8
"""After a pass that flushed less than one in this many, what stands in the way may be copied."""


class Flush:
    """One flush. `steps` may be gone through once."""

    def __init__(self, tools: FlushTools, devices: Sequence[Device], order: FlushOrder) -> None:
        """Prepare to flush some of `devices`; nothing is opened or changed yet."""
        self._tools = tools
        chosen = {device.name for device in devices} if order.names is None else order.names
        self._devices = [device for device in devices if device.name in chosen]
        self._others = [device for device in devices if device.name not in chosen]
        self._order = order
        self._map: BlockMap = tools.parts.block_map
        self._selector = FlushSelector(tools.reader, self._map)
        self._writers = UpstreamWriters(tools.disk, tools.parts.upstream)
        self._buffers = new_buffers(tools.source.block_size)
        self._cuts_waiting: list[str] = []
        self._size = BatchSize(order, tools.source.block_size)
        self._changed = BlockRanges.of(())
        """Blocks that clients changed in this pass. They wait for the next one: only blocks that
        were dirty when it began have lost their hash entries."""
        self._bad = BadBlocks(tools.source)
        self._sampled = np.empty(0, np.int64)
        self._drops_hashes = True
        self._saw_needed = False
        self.done = 0
        """Blocks flushed."""
        self.total = 0
        """Blocks to write when it began."""
        self.is_cancelled = False

    def cancel(self) -> None:
        """End after the batch under way."""
        self.is_cancelled = True

    def steps(self) -> Generator[Step, None, None]:
        """Flush. Each step has to be done before the next one is asked for.

        A step that fails is thrown into the generator.

        Raises:
            FlushError: when blocks could not be written, or space for cycles is missing.
            CommitError, StoreFailedError: when a commit failed.
        """
        hashes = self._tools.parts.hashes
        hashes.learns_upstream = False
        try:
            hashes.hurry()
            yield Pause.COMMIT
            reader = self._tools.reader
            self.total = self._count_dirty()
            sampled = devices_table.load_fingerprints(reader)
            self._sampled = np.fromiter(sorted(sampled), np.int64, len(sampled))
            refuse_fixed_sizes(self._devices)
            yield from self._passes()
        except DatabaseError as error:
            raise FlushError(f"metadata.db cannot be read: {error}", errno.EIO) from error
        except OSError as error:
            code = error.errno or errno.EIO
            raise FlushError(f"cowdata cannot be written: {error.strerror}", code) from error
        finally:
            hashes.learns_upstream = True
            self._map.watched = None
            self._writers.close()
        if self._bad:
            raise FlushError(self._bad.describe(), errno.EIO)

    def _passes(self) -> Generator[Step, None, None]:
        copied_blocks = 0
        while not self._is_over():
            before = self.done
            self._saw_needed = False
            self._drops_hashes = True
            # What is dirty again loses its entry with the first mark: it must be in the table then.
            self._tools.parts.hashes.hurry()
            self._changed, self._map.watched = BlockRanges.of(()), []
            copied = 0
            resized = yield from grow_upstreams(self._tools, self._devices, self._writers)
            for device in self._devices:
                copied += yield from self._sweep(device, copied_blocks)
            yield from self._settle()
            if not self.is_cancelled:
                cuts = yield from cut_upstreams(self._tools, self._devices, self._writers)
                resized += cuts.done
                self._cuts_waiting = cuts.waiting
                self._saw_needed |= bool(cuts.waiting)
            left = self._count_dirty() - self._bad.unwritten.blocks
            progress = self.done - before
            if left <= 0 and not any(device.row.needs_resize for device in self._devices):
                return
            if resized:
                continue
            is_stuck = not progress and not copied
            if self._order.copies and not copied_blocks and progress * _FEW < left:
                copied_blocks = self._size.copied_blocks
            elif is_stuck and not (self._order.copies and self._changed.blocks):
                can_copy = self._order.copies and not self._is_over()
                if self._saw_needed and can_copy and not self._bad:
                    raise self._stuck(left)
                return

    def _sweep(self, device: Device, copied_blocks: int) -> Generator[Step, None, int]:
        """Flush what can be flushed of one device, ascending; return how many were copied."""
        position: int | None = device.first_block
        copied = 0
        while position is not None and not self._is_over():
            yield Pause.BETWEEN
            if self._is_over():
                break
            yield from self._settle()
            selection = self._select(device, position)
            if copied_blocks and selection.needed.any():
                few = (~selection.needed).sum() * 2 < len(selection.addresses)
                if few:
                    runs = self._movable(selection, copied_blocks)
                    copies = yield from copy_needed(
                        self._tools, self._selector, runs, self._is_over
                    )
                    copied += copies.blocks
                    self._bad.note_unreadable(copies.unreadable)
                    # Clients went on meanwhile, also when nothing could be copied: what was chosen
                    # before may be shown elsewhere by now.
                    yield from self._settle()
                    selection = self._select(device, position)
            self._saw_needed |= bool(selection.needed.any())
            batch = selection.free(self._blocks_left())
            if len(batch.addresses):
                yield from self._write(device, batch)
            position = selection.next_address
        return copied

    def _select(self, device: Device, position: int) -> Selection:
        self._note_changes()
        return self._selector.select(
            device, position, self._size.blocks, self._bad.unwritten, self._changed
        )

    def _movable(self, selection: Selection, limit: int) -> list[Run]:
        """Return runs of blocks that may be copied, since only flushed devices show them."""
        unreadable = self._bad.unreadable
        is_in_vain = unreadable.contains(selection.addresses)
        is_in_vain |= unreadable.contains(selection.references)
        addresses = selection.addresses[selection.needed & ~is_in_vain]
        if self._others:
            others = frozenset(device.id for device in self._others)
            addresses = addresses[~self._selector.needed(addresses, others)]
        return merge_numbers(addresses[:limit])

    def _note_changes(self) -> BlockRanges:
        """Take what clients changed since this was asked last."""
        assert self._map.watched is not None
        changes, self._map.watched = BlockRanges.of(self._map.watched), []
        self._changed = self._changed.plus(changes)
        return changes

    def _settle(self) -> Generator[Step, None, None]:
        """Commit, and wait until no other commit is under way."""
        return settle(self._tools)

    def _write(self, device: Device, batch: Selection) -> Generator[Step, None, None]:
        """Flush one batch. No commit is under way when this begins."""
        parts, contents = self._tools.parts, self._tools.contents
        runs = merge_numbers(batch.addresses)
        stored = batch.references[batch.references >= COW_BASE] - COW_BASE
        pinned = merge_numbers(distinct(stored))
        parts.upstream.reserve(runs)
        parts.cow.pin(pinned)
        try:
            while any(contents.is_being_read(*run) for run in runs):
                yield Pause.WAIT
            writer = self._writers.open(device)
            unproved = parts.upstream.marks
            parts.upstream.mark(runs, drop_hashes=self._drops_hashes)
            self._drops_hashes = False
            yield from self._settle()
            work = BatchWrite(
                device,
                batch.addresses,
                batch.references,
                self._tools.source,
                writer,
                unproved,
                self._buffers,
            )
            begin_s = time.monotonic()
            yield work
            self._take(device, work)
            yield from self._settle()
            self._size.note(time.monotonic() - begin_s)
        finally:
            parts.cow.unpin(pinned)
            parts.upstream.release(runs)

    def _take(self, device: Device, work: BatchWrite) -> None:
        """Change the map by what was written."""
        parts = self._tools.parts
        learnt = work.written()
        written = learnt.references
        is_touched = self._note_changes().contains(written)
        with self._map.unwatched():
            for start, length in merge_numbers(written[~is_touched]):
                self._map.assign(start, [(start, length)])
        parts.hashes.note_flushed(learnt)
        device.update(row := row_after_write(device.row, work.mtime_ns))
        parts.upstream.written(merge_numbers(written), row, work.fingerprints(self._sampled))
        device.stats.flush_writes += len(written) - work.equal_blocks
        device.stats.flush_equal += work.equal_blocks
        device.stats.flush_errors += len(work.bad)
        self.done += len(written)
        self._bad.note_unwritten(work.bad)
        self._bad.forget(written)

    def _blocks_left(self) -> int:
        limit = self._order.max_blocks
        return self._size.most_blocks if limit is None else limit - self.done

    def _is_over(self) -> bool:
        return self.is_cancelled or self._blocks_left() <= 0

    def _count_dirty(self) -> int:
        return sum(
            extents_table.count_blocks(self._tools.reader, device.first_block, device.end_block)
            for device in self._devices
        )

    def _stuck(self, left: int) -> FlushError:
        waiting = describe_waiting(self._tools.reader, self._devices, self._others)
        if waiting or self._cuts_waiting:
            return FlushError("; ".join([*waiting, *self._cuts_waiting]), errno.EBUSY)
        return FlushError(
            f"{left} blocks wait for each other in cycles, and there is no space to copy even "
            "one of them: free some space and flush again",
            errno.ENOSPC,
        )
