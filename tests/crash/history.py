"""The model: what each block of the devices may hold after a cut, and each device as a whole.

Writes are numbered. A *frozen* moment is a number of writes that some commit covers: a commit is
one transaction, so what a cut leaves is the content of one such moment, the acknowledged one or a
later one.
"""

from dataclasses import dataclass, field

from tests.support.disk_model import DiskModel

Contents = tuple[bytes, ...]
"""All bytes of each device."""


@dataclass
class History:
    """What the devices have held. `acknowledged` and `begun` are numbers of writes."""

    model: DiskModel
    acknowledged: int = 0
    begun: int = 0
    _blocks: dict[tuple[int, int], list[tuple[int, bytes]]] = field(default_factory=dict)
    _frozen: list[tuple[int, Contents]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = self.contents()
        self._frozen.append((0, self._start))

    @property
    def marks(self) -> tuple[int, int]:
        return self.acknowledged, self.begun

    def contents(self) -> Contents:
        return tuple(bytes(device) for device in self.model.devices)

    def write(self, device: int, offset: int, data: bytes) -> int:
        """Do a write that is about to begin; return how many bytes fit."""
        self.begun += 1
        taken = self.model.write(device, offset, data)
        size = self.model.block_size
        for block in range(offset // size, -(-(offset + taken) // size)) if taken else ():
            held = self.model.read(device, block * size, size)
            self._blocks.setdefault((device, block), []).append((self.begun, held))
        return taken

    def truncate(self, device: int, size: int) -> None:
        """Give a device another size; counts as a write."""
        self.begun += 1
        before = self.model.size(device)
        self.model.truncate(device, size)
        block_size = self.model.block_size
        for block in range(size // block_size, -(-max(before, size) // block_size)):
            held = self.model.read(device, block * block_size, block_size)
            self._blocks.setdefault((device, block), []).append((self.begun, held))

    def freeze(self) -> int:
        """Note that a commit covers all writes until now; return their number."""
        self._frozen.append((self.begun, self.contents()))
        return self.begun

    def acknowledge(self, moment: int) -> None:
        """Note that the caller was told that a frozen moment is durable."""
        self.acknowledged = max(moment, self.acknowledged)

    def adopt(self, contents: Contents) -> None:
        """Go on with what was found after a kill; none of it is acknowledged."""
        size = self.model.block_size
        for device, found in enumerate(contents):
            if self.model.size(device) != len(found):
                self.truncate(device, len(found))
            for offset in range(0, len(found), size):
                part = found[offset : offset + size]
                if self.model.read(device, offset, size) != part:
                    self.write(device, offset, part)
        self.freeze()

    def branch(self, contents: Contents, acknowledged: int, begun: int) -> "History":
        """Return the model of a session that follows a kill, and finds these contents.

        What was begun before the kill may still be taken back, as far as it was not acknowledged.
        """
        frozen = [moment for moment in self._frozen if moment[0] <= begun]
        later = History(DiskModel(self._start, self.model.block_size))
        later.acknowledged, later.begun = acknowledged, begun
        for block, held in self._blocks.items():
            later._blocks[block] = [entry for entry in held if entry[0] <= begun]
        later._frozen = frozen
        later.model = DiskModel(frozen[-1][1], self.model.block_size)
        later.adopt(contents)
        return later

    def judge(self, found: Contents, acknowledged: int, begun: int) -> str | None:
        """Return what is wrong with contents found after a cut between two numbers of writes."""
        moments = [m for m in self._frozen if acknowledged <= m[0] <= begun]
        if any(found == contents for _, contents in moments):
            return None
        size = self.model.block_size
        for device, content in enumerate(found):
            if len(content) not in {len(contents[device]) for _, contents in moments}:
                return f"device {device} gave {len(content)} bytes"
            for offset in range(0, len(content), size):
                allowed = self._allowed(device, offset // size, acknowledged, begun)
                if content[offset : offset + size] not in allowed:
                    return f"block {offset // size} of device {device} holds what it must not"
        return "the blocks are allowed one by one, but not of one commit together"

    def _allowed(self, device: int, block: int, acknowledged: int, begun: int) -> list[bytes]:
        size = self.model.block_size
        allowed = [self._start[device][block * size : (block + 1) * size]]
        for number, held in self._blocks.get((device, block), ()):
            if number <= acknowledged:
                allowed = [held]
            elif number <= begun:
                allowed.append(held)
        return allowed
