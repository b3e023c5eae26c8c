"""Units of addressing. Leaf module: imports nothing of ours.

A *reference* says where the content of a block is. In memory it is one signed 64-bit integer, so
that arrays of references can be compared and run-length encoded in C:

* ``0 <= r < COW_BASE``: the upstream block with that block address;
* ``r >= COW_BASE``: block ``r - COW_BASE`` of the COW store;
* ``r == ZERO``: all zero bytes.

References of consecutive contents are consecutive integers, except ZERO, which repeats.
"""

from enum import IntEnum
from typing import Final, NewType

BlockAddress = NewType("BlockAddress", int)
"""Device id x 2^40 + index of the block in the device. Addresses virtual and upstream blocks."""

CowBlock = NewType("CowBlock", int)
"""Number of a block in `cowdata`; its contents start at byte `CowBlock x block_size`."""

DeviceId = NewType("DeviceId", int)
"""Stable number of a device in one store; starts at 1."""

Reference = NewType("Reference", int)
"""Packed place of a block's content, see the module docstring."""

DEVICE_SHIFT: Final = 40
MAX_DEVICE_BLOCKS: Final = 1 << DEVICE_SHIFT
MAX_DEVICE_ID: Final = (1 << 21) - 1
MAX_ADDRESS: Final = (MAX_DEVICE_ID + 1) << DEVICE_SHIFT
"""Greater than every block address."""

ZERO: Final = Reference(-1)
COW_BASE: Final = 1 << 62

DEFAULT_BLOCK_SIZE: Final = 4096
MIN_BLOCK_SIZE: Final = 512
MAX_BLOCK_SIZE: Final = 1 << 20


class Kind(IntEnum):
    """Where a reference points, as stored in the `kind` columns of the database."""

    UPSTREAM = 0
    COW = 1
    ZERO = 2


def first_address(device_id: int) -> BlockAddress:
    """Return the block address of block 0 of a device."""
    return BlockAddress(device_id << DEVICE_SHIFT)


def device_of(address: int) -> DeviceId:
    """Return the id of the device that a block address lies in."""
    return DeviceId(address >> DEVICE_SHIFT)


def pack(kind: int, target: int) -> Reference:
    """Make a reference of the `kind` and `target` columns of a row.

    Raises:
        ValueError: when `kind` is unknown or `target` out of the range of its kind.
    """
    if kind == Kind.ZERO and target == 0:
        return ZERO
    if kind == Kind.UPSTREAM and 0 <= target < COW_BASE:
        return Reference(target)
    if kind == Kind.COW and 0 <= target < COW_BASE:
        return Reference(COW_BASE + target)
    raise ValueError(f"no such reference: kind {kind}, target {target}")


def unpack(reference: int) -> tuple[Kind, int]:
    """Return the `kind` and `target` columns of a reference; the target of ZERO is 0."""
    if reference == ZERO:
        return Kind.ZERO, 0
    if reference >= COW_BASE:
        return Kind.COW, reference - COW_BASE
    return Kind.UPSTREAM, reference
