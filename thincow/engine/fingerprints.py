"""Fingerprints: a few blocks whose content stands for that of a whole upstream device.

Owns the choice of the blocks (pure) and reading them. Blocks that cannot be read are left out:
serving failing disks is part of the job.
"""

from collections.abc import Iterable
from typing import Final

import xxhash

from thincow.block_types import device_of, first_address
from thincow.store.disk import Disk
from thincow.store.upstream import Upstream

SAMPLES: Final = 64
"""Most blocks sampled of a device: under a second on a disk that seeks in 10 ms."""


def sample_blocks(first: int, blocks: int) -> list[int]:
    """Choose the blocks of a device whose content stands for all of it.

    The first and the last block; the blocks at powers of two, among which are the superblocks of
    ext4 (byte 1024), md (4 KiB) and btrfs (64 KiB, 64 MiB), which change whenever somebody mounts
    them; and blocks spread over the rest, one at a random place in each of equal parts. The same
    arguments always give the same choice.

    Args:
        first: the block address of the device's first block.
        blocks: the number of its blocks.

    Returns:
        Ascending block addresses, at most `SAMPLES`.
    """
    if blocks <= SAMPLES:
        chosen = set(range(blocks))
    else:
        chosen = {0, blocks - 1, *(1 << bit for bit in range((blocks - 1).bit_length()))}
        parts = SAMPLES - len(chosen)
        for part in range(parts):
            start, end = blocks * part // parts, blocks * (part + 1) // parts
            seed = xxhash.xxh3_64_intdigest(f"{device_of(first)}:{part}".encode("ascii"))
            chosen.add(start + seed % (end - start))
    return [first + index for index in sorted(chosen)]


def read_fingerprints(
    disk: Disk, upstream: Upstream, addresses: Iterable[int], block_size: int
) -> dict[int, int]:
    """Return the fingerprints of those blocks that can be read.

    A fingerprint is the xxh3_64 of the block, extended with zeros, as a signed integer.
    """
    fingerprints = {}
    for address in sorted(addresses):
        offset = (address - first_address(device_of(address))) * block_size
        expected = min(block_size, upstream.size_bytes - offset)
        if expected <= 0:
            continue
        try:
            content = disk.read(upstream.fd, expected, offset)
        except OSError:
            continue
        if len(content) == expected:
            fingerprints[address] = _fingerprint(content, block_size)
    return fingerprints


def _fingerprint(content: bytes, block_size: int) -> int:
    unsigned = xxhash.xxh3_64_intdigest(content.ljust(block_size, b"\0"))
    return unsigned - (1 << 64) if unsigned >> 63 else unsigned
