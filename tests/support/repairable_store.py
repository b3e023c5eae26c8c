"""A real store with known contents of every kind, for tests that damage and repair it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.support.engines import BLOCK, TINY, letters, read_all, write_all
from thincow.engine.engine import open_engine
from thincow.engine.options import StoreOptions

A = 1 << 40
B = 2 << 40

UPSTREAMS = {"a": letters("abcdefghijklmnop"), "b": letters("ABCDEFGH") + b"tail" * 64}
"""Device a has 16 blocks, device b 8 and a half; windows have 4."""

CHANGES = [
    ("a", 0, "1234"),  # new contents
    ("a", 5, "00"),  # zeros
    ("a", 8, "1212"),  # the same contents again
    ("a", 13, "AB"),  # contents of the other device
    ("b", 2, "56"),
    ("b", 6, "p7"),
]


@dataclass(frozen=True, slots=True)
class RepairableStore:
    """A closed store, and what its devices show."""

    data_dir: Path
    upstream_dir: Path
    contents: dict[str, bytes]

    def options(self) -> StoreOptions:
        return StoreOptions(
            self.data_dir,
            self.data_dir,
            self.upstream_dir,
            block_size=BLOCK,
            checksum_bits=16,
            tuning=TINY,
        )

    def read(self) -> dict[str, bytes]:
        """Open the store, read all devices and close it."""
        engine = open_engine(self.options())
        try:
            return {
                device.name: read_all(engine, device, 0, device.size_bytes)
                for device in engine.devices
            }
        finally:
            engine.close()

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Open the store, write to a device and close it."""
        engine = open_engine(self.options())
        try:
            (device,) = [device for device in engine.devices if device.name == name]
            write_all(engine, device, offset, data)
        finally:
            engine.close()

    def copy(self, data_dir: Path) -> "RepairableStore":
        """Copy the store; upstream stays where it is, since its inodes are recorded."""
        shutil.copytree(self.data_dir, data_dir)
        return RepairableStore(data_dir, self.upstream_dir, self.contents)


def make_repairable_store(root: Path) -> RepairableStore:
    """Make the store below a directory."""
    upstream = root / "upstream"
    upstream.mkdir()
    for name, content in UPSTREAMS.items():
        (upstream / name).write_bytes(content)
        os.utime(upstream / name, (1_600_000_000, 1_600_000_000))
    store = RepairableStore(root / "store", upstream, {})
    store.data_dir.mkdir()
    engine = open_engine(store.options())
    devices = {device.name: device for device in engine.devices}
    for device in engine.devices:
        read_all(engine, device, 0, device.size_bytes)  # so that these contents are known
    expected = {name: bytearray(content) for name, content in UPSTREAMS.items()}
    for name, first, characters in CHANGES:
        data = letters(characters)
        write_all(engine, devices[name], first * BLOCK, data)
        expected[name][first * BLOCK : first * BLOCK + len(data)] = data
    engine.close()
    store.contents.update({name: bytes(content) for name, content in expected.items()})
    assert store.read() == store.contents
    return store
