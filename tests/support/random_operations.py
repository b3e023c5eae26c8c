"""Seeded random contents and operations that provoke deduplication."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.disk_model import DiskModel

MAX_LENGTH_BLOCKS = 12


@dataclass(frozen=True, slots=True)
class Operation:
    """One step: `kind` is read, write, truncate, sync, restart or kill; `length` also a size."""

    kind: str
    device: int = 0
    offset: int = 0
    length: int = 0
    data: bytes = b""
    source: str = ""

    def __str__(self) -> str:
        if self.kind == "truncate":
            return f"truncate device {self.device} to {self.length}"
        if self.kind not in ("read", "write"):
            return self.kind
        length = len(self.data) if self.kind == "write" else self.length
        return f"{self.kind} device {self.device} offset {self.offset} length {length} " + (
            f"({self.source})" if self.source else ""
        )


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each kind of operation is chosen, relative to the others."""

    read: float = 30
    write: float = 60
    truncate: float = 3
    sync: float = 4
    restart: float = 0.5
    kill: float = 0.0


@dataclass
class OperationGenerator:
    """Makes random operations from what the model holds now.

    Contents come from a small alphabet of blocks, from other places of the devices (whole blocks,
    or shifted by some bytes), from what was there at first, or are zero or never seen before.
    """

    seed: int
    model: DiskModel
    mix: Mix = field(default_factory=Mix)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._original = [bytes(device) for device in self.model.devices]
        self._alphabet = [self._random.randbytes(self.model.block_size) for _ in range(6)]
        self._sources: dict[str, Callable[[int, int, int], bytes]] = {
            "zeros": lambda _device, _offset, length: bytes(length),
            "letters": self._letters,
            "one letter": self._one_letter,
            "copy": self._copy,
            "original": lambda device, offset, length: self._slice(
                self._original[device], offset, length
            ),
            "same again": lambda device, offset, length: self._slice(
                self.model.devices[device], offset, length
            ),
            "new": lambda _device, _offset, length: self._random.randbytes(length),
        }

    def next_operation(self) -> Operation:
        kinds = ("read", "write", "truncate", "sync", "restart", "kill")
        weights = [getattr(self.mix, kind) for kind in kinds]
        kind = self._random.choices(kinds, weights)[0]
        if kind not in ("read", "write", "truncate"):
            return Operation(kind)
        device = self._random.randrange(len(self.model.devices))
        if kind == "truncate":
            return Operation(kind, device, length=self._size(device))
        offset, length = self._range(device)
        if kind == "read":
            return Operation(kind, device, offset, length)
        source = self._random.choices(list(self._sources), (2, 3, 1, 4, 3, 1, 3))[0]
        data = self._sources[source](device, offset, length)
        return Operation(kind, device, offset, data=data, source=source)

    def _size(self, device: int) -> int:
        """Choose a new size: about the present one, or any up to twice what was there at first."""
        block_size, size = self.model.block_size, self.model.size(device)
        most = 2 * max(len(self._original[device]), 2 * block_size)
        near = size + self._random.randint(-2 * block_size, 2 * block_size)
        chosen = self._random.choice((near, near, self._random.randrange(most), most // 2, 0))
        if self._random.random() < 0.4:
            chosen -= chosen % block_size
        return min(max(0, chosen), most)

    def _range(self, device: int) -> tuple[int, int]:
        """Choose whole blocks most of the time, else any bytes; now and then across the end."""
        block_size = self.model.block_size
        size = self.model.size(device)
        blocks = self._random.randint(1, self._random.choice((1, 3, MAX_LENGTH_BLOCKS)))
        shape = self._random.random()
        if shape < 0.65:
            first = self._random.randrange(max(1, -(-size // block_size)))
            return first * block_size, blocks * block_size
        if shape < 0.9:
            length = self._random.randint(1, blocks * block_size)
            return self._random.randrange(max(1, size)), length
        if shape < 0.97 or size > 2 * len(self._original[device]):
            length = self._random.randint(1, blocks * block_size)
            return max(0, size - self._random.randint(0, length)), length
        return size + self._random.randrange(2 * block_size), blocks * block_size

    def _letters(self, device: int, offset: int, length: int) -> bytes:
        """Return alphabet blocks; runs of one or in their order, aligned with the device."""
        start = self._random.randrange(len(self._alphabet))
        count = -(-length // self.model.block_size) + 1
        letters = [self._alphabet[(start + n) % len(self._alphabet)] for n in range(count)]
        return self._slice(b"".join(letters), offset % self.model.block_size, length)

    def _one_letter(self, device: int, offset: int, length: int) -> bytes:
        letter = self._random.choice(self._alphabet)
        repeated = letter * (-(-length // self.model.block_size) + 1)
        return self._slice(repeated, offset % self.model.block_size, length)

    def _copy(self, device: int, offset: int, length: int) -> bytes:
        """Return what another place holds: mostly at a distance of whole blocks."""
        other = self._random.randrange(len(self.model.devices))
        size = max(1, self.model.size(other))
        start = self._random.randrange(size)
        if self._random.random() < 0.85:
            start -= start % self.model.block_size - offset % self.model.block_size
        return self._slice(self.model.devices[other], start, length)

    def _slice(self, content: bytes | bytearray, start: int, length: int) -> bytes:
        """Return a part, extended with zeros where the content has ended."""
        return bytes(content[start : start + length]).ljust(length, b"\0")


def make_contents(seed: int, block_size: int, devices: int = 3, blocks: int = 40) -> list[bytes]:
    """Make devices of different sizes with zeros, repeated and unique blocks.

    The second one has 1.5 blocks, the others up to `blocks`, most with a partial last block. The
    first blocks are zero.
    """
    generator = random.Random(seed)
    letters = [bytes(block_size), *(generator.randbytes(block_size) for _ in range(4))]
    contents = []
    for device in range(devices):
        parts = [bytes(block_size)] * 3
        while len(parts) < blocks:
            run = generator.randint(1, 6)
            if generator.random() < 0.5:
                parts += [generator.randbytes(block_size) for _ in range(run)]
            else:
                parts += [generator.choice(letters)] * run
        size = generator.randint(blocks * block_size // 2, blocks * block_size)
        contents.append(b"".join(parts)[: block_size * 3 // 2 if device == 1 else size])
    return contents
