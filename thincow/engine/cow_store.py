"""The COW store: reference counts of its blocks, and which of them may be written.

Owner of allocation: allocating, punching and cutting the tail are decided only here, in the thread
that serves requests. Another one may punch what it was given; nobody else has these blocks then.

Invariants:
- a block is reusable only while its count is 0 in the running, the frozen and the durable map and
  nobody pins it. A block freed in an epoch becomes reusable when that epoch is durable, unless it
  was allocated in the same epoch: then no commit ever referred to it; and unless a hold keeps it;
- a new reference to a block is made only while its count is above 0, except by `allocate`'s
  caller for blocks that it was just given.
"""

from collections.abc import Iterable

from thincow.engine.cow_counts import CowBlocks, CowCounts
from thincow.engine.free_blocks import FreeBlocks
from thincow.engine.free_runs import Run
from thincow.engine.held_blocks import HeldBlocks
from thincow.engine.hole_punch import HolePunch
from thincow.engine.pinned_blocks import PinnedBlocks
from thincow.engine.window_cache import FrozenWindow, WindowCache
from thincow.errors import CorruptStoreError, NoSpaceError
from thincow.store.cow_file import CowFile


class CowStore:
    """Counts and free blocks over a `CowFile`."""

    def __init__(
        self,
        file: CowFile,
        counts: WindowCache,
        block_size: int,
        end_block: int,
        max_blocks: int | None,
    ) -> None:
        """Start with no known free block below `end_block`, the end of the used part.

        Args:
            file: where contents go.
            counts: the reference counts.
            block_size: bytes in a block.
            end_block: number of the block after the last used one, in blocks.
            max_blocks: the file never holds more blocks than this.

        Raises:
            CorruptStoreError: when the file is too short.
        """
        if not 0 <= end_block * block_size <= file.size_bytes:
            raise CorruptStoreError(
                f"cowdata has {file.size_bytes} bytes, but the metadata speak of "
                f"{end_block * block_size}: run 'thincow fsck'"
            )
        self.file = file
        self.counts = counts
        self._counts = CowCounts(counts)
        self.block_size = block_size
        self.end_block = end_block
        self._max_blocks = max_blocks
        self._free = FreeBlocks(file, block_size)
        self._freed: list[Run] = []
        self.new_bytes = 0
        """Bytes handed out since the last freeze."""
        self.held = HeldBlocks(self._reuse)
        """What views of earlier commits refer to is not reused."""
        self._pinned = PinnedBlocks()
        self.only_durable = False
        """A sync failed: contents that no commit refers to may be gone, cached or not."""
        self._scanned_to = 0
        self._scan_end = end_block

    def count(self, block: int) -> int:
        """Return the running reference count of a block."""
        return self._counts.count(block)

    def live_run(self, block: int, limit: int) -> int:
        """Return how many blocks from `block` on, at most `limit`, are referenced."""
        return self._counts.live_run(block, limit)

    def lost(self, block: int, length: int) -> frozenset[int]:
        """Return which of a run of blocks, by index, may be gone because a sync failed."""
        return self._counts.not_durable(block, length) if self.only_durable else frozenset()

    def allocate(self, count: int) -> list[Run]:
        """Hand out blocks to write to, reusable ones first, with space claimed for them.

        Raises:
            NoSpaceError: when a quota or the filesystem forbids; nothing was handed out then.
            OSError: when the filesystem fails otherwise; nothing was handed out either.
        """
        runs = self._free.take(count)
        missing = count - sum(length for _, length in runs)
        if missing:
            try:
                runs.append(self._grow(missing))
            except BaseException as error:
                self.give_back(runs)
                if isinstance(error, NoSpaceError) and self._free.is_punching:
                    self._free.finish_punch()
                    return self.allocate(count)
                raise
        self.new_bytes += count * self.block_size
        self.held.note_allocated(runs)
        return runs

    def allocate_one(self) -> int:
        """Hand out one block as `allocate` does."""
        if self._free.blocks or self.held:
            return self.allocate(1)[0][0]
        block, _ = self._grow(1)
        self.new_bytes += self.block_size
        return block

    def give_back(self, runs: Iterable[Run]) -> None:
        """Return blocks that were allocated but never referred to."""
        for start, length in runs:
            self._make_reusable(start, length)

    def add_references(self, blocks: CowBlocks) -> None:
        """Count one reference more for each block (an entry of an array each time it occurs)."""
        self._counts.add(blocks)

    def drop_references(self, blocks: CowBlocks) -> None:
        """Count one reference less for each entry; blocks without any are freed."""
        fresh, known = self._counts.drop(blocks)
        self._freed += known
        for start, length in fresh:
            self._make_reusable(start, length)

    def move_reference(self, added: int | None, dropped: int | None) -> None:
        """Count a reference to one block more and to another less, as when one replaces another.

        Nothing has changed when this raises.
        """
        is_fresh = self._counts.move_one(added, dropped)
        if is_fresh is None:
            return
        assert dropped is not None
        if is_fresh:
            self._make_reusable(dropped, 1)
        else:
            self._freed.append((dropped, 1))

    def preload(self, blocks: CowBlocks) -> None:
        """Load the windows of blocks, so that changing their counts cannot fail."""
        self._counts.preload(blocks)

    def pin(self, runs: Iterable[Run]) -> None:
        """Keep blocks from being reused, punched or cut off."""
        self._pinned.pin(runs)

    def unpin(self, runs: Iterable[Run]) -> None:
        """Take back one `pin` of the same runs."""
        self._free.add_all(self._pinned.unpin(runs))

    @property
    def has_freed(self) -> bool:
        """Whether blocks were freed that only a commit makes reusable."""
        return bool(self._freed)

    def freeze(self) -> tuple[list[FrozenWindow], list[Run]]:
        """End the epoch; return its changed counts and the runs of blocks that it freed."""
        freed = self._freed
        self._freed = []
        self.new_bytes = 0
        return self.counts.freeze(), freed

    def settle(self, frozen: list[FrozenWindow], freed: list[Run]) -> None:
        """Make the blocks freed in an epoch reusable: it is durable."""
        self.counts.settle(frozen)
        self._reuse(self.held.pass_freed(freed))

    def _reuse(self, freed: list[Run]) -> None:
        reusable = freed
        if self._scanned_to < self._scan_end:
            # What the scan for free blocks has not reached yet is left for it to find.
            outside = ((0, self._scanned_to), (self._scan_end, self.end_block))
            clipped = [
                (max(start, low), min(start + length, high))
                for start, length in freed
                for low, high in outside
            ]
            reusable = [(start, end - start) for start, end in clipped if start < end]
        self._free.add_all(self._pinned.pass_freed(reusable))

    def merge_back(self, frozen: list[FrozenWindow], freed: list[Run]) -> None:
        """Take back an epoch whose commit failed."""
        self.counts.merge_back(frozen)
        self._freed = freed + self._freed

    @property
    def scan_range(self) -> Run | None:
        """Where free blocks of earlier mounts are still to be looked for: first block, end.

        Not while a hold may keep blocks that are free by now.
        """
        if self.held or self._scanned_to >= self._scan_end:
            return None
        return self._scanned_to, self._scan_end

    def add_scanned(self, gaps: Iterable[Run], scanned_to: int, *, holding: bool) -> None:
        """Take free runs found in the durable counts below `scanned_to`; no commit may be open.

        `holding`: the filesystem may not have got their space back.
        """
        self._scanned_to = scanned_to
        for start, length in gaps:
            self._make_reusable(start, length, holding=holding)

    def end_scan(self) -> None:
        """Look for no more free blocks of earlier mounts."""
        self._scanned_to = self._scan_end

    @property
    def reusable_blocks(self) -> int:
        """Number of blocks known to be free for reuse at once."""
        return self._free.blocks

    @property
    def holding_bytes(self) -> int:
        """Bytes of reusable blocks whose space the filesystem has not got back."""
        return self._free.holding_blocks * self.block_size

    def punch(self, max_runs: int | None) -> None:
        """Give back the space of up to `max_runs` reusable runs (None: all), and the free tail.

        Raises:
            OSError: when the filesystem fails; the blocks stay reusable.
        """
        self._free.finish_punch()
        punch = self.begin_punch(max_runs)
        punch.run()
        self.end_punch(punch)

    @property
    def is_punching(self) -> bool:
        """Whether a punch has begun and not ended."""
        return self._free.is_punching

    def begin_punch(self, max_runs: int | None) -> HolePunch:
        """Begin what `punch` does: the result is to be run in any thread, and `end_punch` called.

        Its blocks are not handed out before; one goes on at a time.
        """
        return self._free.begin_punch(max_runs, self.end_block)

    def end_punch(self, punch: HolePunch) -> None:
        """Take the outcome of a punch that was run, and cut the free tail.

        Raises:
            OSError: as `punch`.
        """
        self._free.end_punch(punch)
        if punch.error is not None:
            raise punch.error
        self.end_block = self._free.take_tail(self.end_block)
        self.file.truncate(self.end_block * self.block_size)

    def _grow(self, count: int) -> Run:
        start = self.end_block
        if self._max_blocks is not None and start + count > self._max_blocks:
            raise NoSpaceError(f"the COW store may hold no more than {self._max_blocks} blocks")
        self.file.claim((start + count) * self.block_size)
        self.end_block = start + count
        return start, count

    def _make_reusable(self, start: int, length: int, *, holding: bool = True) -> None:
        if self._pinned:
            self._free.add_all(self._pinned.pass_freed([(start, length)]), holding=holding)
        else:
            self._free.add(start, length, holding=holding)
