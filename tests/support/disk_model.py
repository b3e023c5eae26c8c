"""A plain model of the devices that thincow serves: bytes, and what a crash may leave of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.torn_writes import is_torn_write


@dataclass(frozen=True, slots=True)
class _BlockWrite:
    """What one write does to one block.

    Attributes:
        begin: where the block begins in the device, in bytes.
        before: what the block holds before the write.
        after: what it holds after it.
        start: the first byte of the block that is written.
        stop: the byte behind the last one.
        size_before: the size of the device before the write, in bytes.
        sizes_between: those that it may have when a part of the write has made it grow.
    """

    begin: int
    before: bytes
    after: bytes
    start: int
    stop: int
    size_before: int
    sizes_between: range

    def may_leave(self, found: bytes, size: int) -> bool:
        """Tell whether a beginning of the write leaves the block, and the device, like this."""
        end = size - self.begin
        if size == self.size_before:  # so it got no further than the end of the device
            written = self.after[self.start : min(self.stop, end)]
            return is_torn_write(self.before, self.start, written, found)
        torn = self.before[: self.start] + self.after[self.start : end] + self.before[end:]
        return size in self.sizes_between and found == torn


class DiskModel:
    """Devices as byte arrays, which grow like files.

    Args:
        contents: what the devices hold at first.
        block_size: the blocks that a crash leaves old or new, in bytes.
        splits_writes: whether a write may arrive in parts, one after the other, so that a crash
            can leave the beginning of one; the kernel does that to the writes to a mount.
    """

    def __init__(
        self, contents: Sequence[bytes], block_size: int, splits_writes: bool = False
    ) -> None:
        self.devices = [bytearray(content) for content in contents]
        self.block_size = block_size
        self.splits_writes = splits_writes
        # What a block has held since the last sync, the synced content first; past the end of the
        # device that is zeros.
        self._since_sync: dict[tuple[int, int], list[bytes]] = {}
        self._sizes: dict[int, set[int]] = {}
        # The writes to a block since the last sync, when a crash can leave the beginning of one.
        # They share the contents with `_since_sync`.
        self._writes: dict[tuple[int, int], list[_BlockWrite]] = {}

    def size(self, device: int) -> int:
        return len(self.devices[device])

    def read(self, device: int, offset: int, length: int) -> bytes:
        return bytes(self.devices[device][offset : offset + length])

    def write(self, device: int, offset: int, data: bytes) -> int:
        if data:
            content = self.devices[device]
            size = len(content)
            self._begin_change(device, offset, len(data))
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            self._end_change(device, offset, len(data))
            if self.splits_writes:
                self._note_write(device, offset, len(data), size)
        return len(data)

    def truncate(self, device: int, size: int) -> None:
        content = self.devices[device]
        cut = max(0, len(content) - size)
        self._begin_change(device, size, cut)
        del content[size:]
        content.extend(bytes(size - len(content)))
        self._end_change(device, size, cut)

    def sync(self) -> None:
        self._since_sync.clear()
        self._sizes.clear()
        self._writes.clear()

    def adopt_after_crash(self, device: int, found: bytes) -> int | None:
        """Take over what a device holds after a crash.

        When writes are split, one block may hold the beginning of a write and, behind that, what it
        held before the write. Only one: a crash leaves what one commit holds, and no two writes are
        under way at the same time. The size is the one at that point of the write, too.

        Returns:
            The offset of the first block that holds neither synced nor later content, the size
            when it has neither the synced nor a later one, or None.
        """
        size = len(found)
        is_known_size = size in self._sizes.get(device, {self.size(device)})
        if not is_known_size and not self._may_end_in_a_write(device, found):
            return size
        blocks = range(-(-size // self.block_size))
        contents = {
            block: self._since_sync.get((device, block), [self._block(device, block)])
            for block in blocks
        }
        self.devices[device][:] = found
        has_torn_block = False
        for block, possible in contents.items():
            content = self._block(device, block)
            if content in possible:
                continue
            writes = self._writes.get((device, block), ())
            if has_torn_block or not any(write.may_leave(content, size) for write in writes):
                return block * self.block_size
            has_torn_block = True
        return None

    def _may_end_in_a_write(self, device: int, found: bytes) -> bool:
        """Tell whether the device ends where a part of a write, which makes it grow, may end."""
        size = len(found)
        block = (size - 1) // self.block_size
        content = found[block * self.block_size :].ljust(self.block_size, b"\0")
        return any(
            size in write.sizes_between and write.may_leave(content, size)
            for write in self._writes.get((device, block), ())
        )

    def _note_write(self, device: int, offset: int, length: int, size_before: int) -> None:
        end = offset + length
        sizes = range(max(size_before, offset) + 1, end)
        for block in self._blocks(offset, length):
            begin = block * self.block_size
            start, stop = max(0, offset - begin), min(self.block_size, end - begin)
            before, after = self._since_sync[device, block][-2:]
            write = _BlockWrite(begin, before, after, start, stop, size_before, sizes)
            self._writes.setdefault((device, block), []).append(write)

    def _begin_change(self, device: int, offset: int, length: int) -> None:
        self._sizes.setdefault(device, set()).add(self.size(device))
        for block in self._blocks(offset, length):
            history = self._since_sync.setdefault((device, block), [])
            if not history:
                history.append(self._block(device, block))

    def _end_change(self, device: int, offset: int, length: int) -> None:
        self._sizes[device].add(self.size(device))
        for block in self._blocks(offset, length):
            self._since_sync[device, block].append(self._block(device, block))

    def _blocks(self, offset: int, length: int) -> range:
        return range(offset // self.block_size, -(-(offset + length) // self.block_size))

    def _block(self, device: int, block: int) -> bytes:
        """Return the content of a block, zeros where the device has ended."""
        content = self.read(device, block * self.block_size, self.block_size)
        return content.ljust(self.block_size, b"\0")
