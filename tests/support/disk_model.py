"""A plain model of the devices that thincow serves: bytes, and what a crash may leave of them."""

from collections.abc import Sequence


class DiskModel:
    """Devices as byte arrays.

    Args:
        contents: what the devices hold at first.
        block_size: the blocks that a crash leaves old or new, in bytes.
    """

    def __init__(self, contents: Sequence[bytes], block_size: int) -> None:
        self.devices = [bytearray(content) for content in contents]
        self.block_size = block_size
        # What a block has held since the last sync, the synced content first.
        self._since_sync: dict[tuple[int, int], list[bytes]] = {}

    def size(self, device: int) -> int:
        return len(self.devices[device])

    def read(self, device: int, offset: int, length: int) -> bytes:
        return bytes(self.devices[device][offset : offset + length])

    def write(self, device: int, offset: int, data: bytes) -> int:
        content = self.devices[device]
        taken = max(0, min(len(data), len(content) - offset))
        if taken == 0:
            return 0
        blocks = range(offset // self.block_size, -(-(offset + taken) // self.block_size))
        for block in blocks:
            history = self._since_sync.setdefault((device, block), [])
            if not history:
                history.append(self._block(device, block))
        content[offset : offset + taken] = data[:taken]
        for block in blocks:
            self._since_sync[device, block].append(self._block(device, block))
        return taken

    def sync(self) -> None:
        self._since_sync.clear()

    def adopt_after_crash(self, device: int, found: bytes) -> int | None:
        """Take over what a device holds after a crash.

        Returns:
            The offset of the first block that holds neither synced nor later content, or None.
        """
        assert len(found) == self.size(device)
        for offset in range(0, len(found), self.block_size):
            block = offset // self.block_size
            now = found[offset : offset + self.block_size]
            possible = self._since_sync.get((device, block), [self._block(device, block)])
            if now not in possible:
                return offset
            self.devices[device][offset : offset + len(now)] = now
        return None

    def _block(self, device: int, block: int) -> bytes:
        return self.read(device, block * self.block_size, self.block_size)
