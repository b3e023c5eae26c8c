"""Compares data with contents that are stored somewhere. A hash match counts only after this."""

from typing import Final

import numpy as np

from thincow.engine.buffers import REQUEST_BYTES, new_buffer
from thincow.engine.contents import Contents
from thincow.engine.fetch import Fetch, WouldBlock

FIRST_BLOCKS: Final = 8
"""So many blocks are compared first, where nothing is known of how long a run may be."""
_GROWTH: Final = 3
"""Each step may wait for a disk."""


class Comparison:
    """Reads contents into one buffer of its own and compares them."""

    def __init__(self, contents: Contents, block_size: int) -> None:
        """Compare blocks of `block_size` bytes."""
        self._contents = contents
        self._block_size = block_size
        self._buffer = new_buffer(max(REQUEST_BYTES, block_size))

    def match(
        self,
        reference: int,
        data: bytes,
        at: int,
        fetch: Fetch,
        limit: int | None = None,
        first: int = FIRST_BLOCKS,
    ) -> int:
        """Return how many blocks of `data` from block `at` on equal those from `reference` on.

        Only blocks that may be referred to count, and no more than `limit`. The `first` ones are
        read together, then more the more were equal so far: little is read of what differs.

        Raises:
            WouldBlock: when the fetch has to run first.
        """
        size = self._block_size
        limit = self._contents.referable(reference, limit or len(data) // size - at)
        done = 0
        step = first
        while done < limit:
            length = min(step, limit - done)
            content, bad = self._load(reference + done, length, fetch)
            equal = _equal_blocks(data, (at + done) * size, content, size)
            if bad:
                equal = min(equal, *bad)
            done += equal
            if equal < length:
                break
            step = _GROWTH * done
        return done

    def equal(self, reference: int, other: int, fetch: Fetch) -> bool:
        """Tell whether the contents at two references are equal and the first may be referred to.

        Raises:
            WouldBlock: when the fetch has to run first.
        """
        content, bad = self._load(other, 1, fetch)
        return not bad and self.match(reference, bytes(content), 0, fetch) == 1

    def is_cached_zero(self, reference: int) -> bool:
        """Tell whether an upstream block is known to be zero without any disk access."""
        view = self._buffer[: self._block_size]
        return (
            self._contents.load_if_cached(reference, view)
            and not np.frombuffer(view, np.uint64).any()
        )

    def _load(self, reference: int, length: int, fetch: Fetch) -> tuple[memoryview, frozenset[int]]:
        needed = length * self._block_size
        if needed > len(self._buffer):
            self._buffer = new_buffer(needed)
        into = self._buffer[:needed]
        bad = self._contents.load(reference, length, into, fetch)
        if bad is None:
            raise WouldBlock(fetch)
        return into, bad


def _equal_blocks(data: bytes, offset: int, content: memoryview, block_size: int) -> int:
    """Return how many whole blocks of `content` equal `data` from a byte offset on."""
    length = len(content)
    if length == block_size:
        part = data if len(data) == length else data[offset : offset + length]
        return 1 if part == content.tobytes() else 0
    words = length // 8
    equal = np.frombuffer(data, np.uint64, words, offset) == np.frombuffer(content, np.uint64)
    if equal.all():
        return length // block_size
    return int(equal.argmin()) * 8 // block_size
