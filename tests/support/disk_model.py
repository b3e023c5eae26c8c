"""A plain model of the devices that thincow serves: bytes, and what a crash may leave of them."""

from collections.abc import Sequence


class DiskModel:
    """Devices as byte arrays, which grow like files.

    Args:
        contents: what the devices hold at first.
        block_size: the blocks that a crash leaves old or new, in bytes.
    """

    def __init__(self, contents: Sequence[bytes], block_size: int) -> None:
        self.devices = [bytearray(content) for content in contents]
        self.block_size = block_size
        # What a block has held since the last sync, the synced content first; past the end of the
        # device that is zeros.
        self._since_sync: dict[tuple[int, int], list[bytes]] = {}
        self._sizes: dict[int, set[int]] = {}

    def size(self, device: int) -> int:
        return len(self.devices[device])

    def read(self, device: int, offset: int, length: int) -> bytes:
        return bytes(self.devices[device][offset : offset + length])

    def write(self, device: int, offset: int, data: bytes) -> int:
        if data:
            content = self.devices[device]
            self._begin_change(device, offset, len(data))
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
            self._end_change(device, offset, len(data))
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

    def adopt_after_crash(self, device: int, found: bytes) -> int | None:
        """Take over what a device holds after a crash.

        Returns:
            The offset of the first block that holds neither synced nor later content, the size
            when it has neither the synced nor a later one, or None.
        """
        if len(found) not in self._sizes.get(device, {self.size(device)}):
            return len(found)
        blocks = range(-(-len(found) // self.block_size))
        contents = {
            block: self._since_sync.get((device, block), [self._block(device, block)])
            for block in blocks
        }
        self.devices[device][:] = found
        for block, possible in contents.items():
            if self._block(device, block) not in possible:
                return block * self.block_size
        return None

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
