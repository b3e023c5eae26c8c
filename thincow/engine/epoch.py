"""Everything that changes in memory between two commits, as one: frozen, settled, taken back."""

from dataclasses import dataclass

from thincow.engine.block_map import BlockMap
from thincow.engine.checksums import Checksums
from thincow.engine.commit import Epoch
from thincow.engine.cow_store import CowStore
from thincow.engine.hash_index import HashIndex
from thincow.engine.upstream_state import UpstreamState


@dataclass(frozen=True, slots=True)
class EpochParts:
    """The parts of an engine whose changes commits make durable."""

    block_map: BlockMap
    cow: CowStore
    hashes: HashIndex
    checksums: Checksums | None
    upstream: UpstreamState

    @property
    def is_dirty(self) -> bool:
        """Whether anything changed in the running epoch."""
        return self.hashes.staged_entries > 0 or self.must_commit

    @property
    def must_commit(self) -> bool:
        """Whether anything changed in the running epoch that may not wait."""
        return (
            self.block_map.windows.dirty_windows > 0
            or self.cow.counts.dirty_windows > 0
            or self.hashes.has_stored
            or self.upstream.is_dirty
            or (self.checksums is not None and self.checksums.windows.dirty_windows > 0)
        )

    def freeze(self, *, is_awaited: bool) -> Epoch:
        """End the running epoch and return its changes; `is_awaited`: see `HashIndex.freeze`."""
        counts, freed = self.cow.freeze()
        return Epoch(
            references=self.block_map.freeze(),
            counts=counts,
            checksums=self.checksums.windows.freeze() if self.checksums is not None else [],
            freed=freed,
            hashes=self.hashes.freeze(is_awaited=is_awaited),
            upstream=self.upstream.freeze(),
        )

    def settle(self, epoch: Epoch) -> None:
        """Note that an epoch is durable: what it freed becomes reusable."""
        self.block_map.windows.settle(epoch.references)
        self.cow.settle(epoch.counts, epoch.freed)
        if self.checksums is not None:
            self.checksums.windows.settle(epoch.checksums)
        self.hashes.settle()

    def merge_back(self, epoch: Epoch) -> None:
        """Make the changes of an epoch whose commit failed part of the running one again."""
        self.block_map.windows.merge_back(epoch.references)
        self.cow.merge_back(epoch.counts, epoch.freed)
        if self.checksums is not None:
            self.checksums.windows.merge_back(epoch.checksums)
        self.hashes.merge_back(epoch.hashes)
        self.upstream.merge_back(epoch.upstream)
