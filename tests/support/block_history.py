"""What was written to each block and when: the oracle of the tests that cut a mount off.

Every write is numbered, and every sector of fresh content carries the number of its write, the
writer and the sector's own position. So a block that holds an old version, another block's content
or a mixture is told apart from one that holds what it may, and can be described.
"""

import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

SECTOR: Final = 512
_STAMP: Final = struct.Struct("<8sQQQ")
_MAGIC: Final = b"written\0"
_NEVER: Final = (1 << 63) - 1

BlockKey = tuple[str, int]
"""A device's name and the index of a block in it."""


def stamped(writer: int, number: int, offset: int, length: int) -> bytes:
    """Return fresh content for any range: each sector says who wrote it, when, and where."""
    first, end = offset // SECTOR, -(-(offset + length) // SECTOR)
    repeats = SECTOR // _STAMP.size
    sectors = [
        _STAMP.pack(_MAGIC, writer, number, sector) * repeats for sector in range(first, end)
    ]
    start = offset - first * SECTOR
    return b"".join(sectors)[start : start + length]


def describe(content: bytes) -> str:
    """Say what a block holds."""
    found = dict.fromkeys(
        _describe_sector(content[at : at + SECTOR]) for at in range(0, len(content), SECTOR)
    )
    return ", ".join(found)


def _describe_sector(sector: bytes) -> str:
    if not any(sector):
        return "zeros"
    stamp = sector[: _STAMP.size]
    if stamp.startswith(_MAGIC) and sector == (stamp * (SECTOR // len(stamp)))[: len(sector)]:
        _, writer, number, _ = _STAMP.unpack(stamp)
        return f"write {number} of writer {writer}"
    return f"other content ({sector[:8].hex()}...)"


@dataclass
class BlockHistory:
    """The versions of the blocks that one writer wrote.

    Args:
        base: content of the devices before, by name.
        unit: what a crash leaves old or new, in bytes: a block, but never more than a page, since
            the kernel may split a write between pages.
    """

    base: Mapping[str, bytes]
    unit: int
    # Each version with the time at which its write was answered; what was there before comes first.
    versions: dict[BlockKey, list[tuple[bytes, int]]] = field(default_factory=dict)
    _written: set[BlockKey] = field(default_factory=set)

    def now(self, device: str, block: int) -> bytes:
        """Return what a block should hold now."""
        if versions := self.versions.get((device, block)):
            return versions[-1][0]
        return self.base[device][block * self.unit : (block + 1) * self.unit]

    def begin_write(self, device: str, offset: int, data: bytes) -> list[BlockKey]:
        """Note a write before it is made; return the blocks that it touches."""
        end = offset + len(data)
        touched = []
        for block in range(offset // self.unit, -(-end // self.unit)):
            before = self.now(device, block)
            start = block * self.unit
            low, high = max(offset, start), min(end, start + len(before))
            after = before[: low - start] + data[low - offset : high - offset]
            after += before[high - start :]
            self.versions.setdefault((device, block), [(before, 0)]).append((after, _NEVER))
            touched.append((device, block))
        self._written.update(touched)
        return touched

    def end_write(self, touched: list[BlockKey]) -> None:
        """Note that the last write has been answered."""
        now = time.monotonic_ns()
        for key in touched:
            content, _ = self.versions[key][-1]
            self.versions[key][-1] = (content, now)

    def forget_before(self, device: str, synced_ns: int) -> None:
        """Drop the versions that a sync begun at that time has superseded."""
        for key in [key for key in self._written if key[0] == device]:
            versions = self.versions[key]
            del versions[: _last_answered_before(versions, synced_ns)]
            if len(versions) == 1:
                self._written.discard(key)


def _last_answered_before(versions: list[tuple[bytes, int]], synced_ns: int) -> int:
    """Return the index of the oldest version that may still be found."""
    return max(n for n, (_, done_ns) in enumerate(versions) if n == 0 or done_ns <= synced_ns)


def find_violations(
    history: BlockHistory, found: Mapping[str, bytes], synced_ns: Mapping[str, int]
) -> list[str]:
    """Compare what devices hold after a crash with what they may hold.

    Args:
        history: all that was written since `history.base` was durable.
        found: the devices' content, by name.
        synced_ns: when the last successful sync of a device began, by name.

    Returns:
        One line for each block that holds neither what was last synced nor anything later.
    """
    size = history.unit
    wrong = []
    for device, before in history.base.items():
        assert len(found[device]) == len(before), f"{device} has another size"
        for block in range(-(-len(before) // size)):
            content = found[device][block * size : (block + 1) * size]
            versions = history.versions.get((device, block))
            if versions is None:
                allowed = [before[block * size : (block + 1) * size]]
            else:
                first = _last_answered_before(versions, synced_ns.get(device, 0))
                allowed = [version for version, _ in versions[first:]]
            if content not in allowed:
                wrong.append(
                    f"{device} block {block} holds [{describe(content)}], allowed: "
                    + " or ".join(f"[{describe(version)}]" for version in allowed)
                )
    return wrong
