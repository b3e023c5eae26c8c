"""The words that command a flush, as `/flush` and the extended attribute of the mount take them."""

import re
from dataclasses import replace
from typing import Final

from thincow.engine.flush_order import FlushOrder

FLUSH_ATTRIBUTE: Final = "user.thincow.flush"
"""Attribute of the mount's root. To set it begins a flush, and does not wait for its end: the
kernel keeps everything else away from a file while an attribute of it is being set."""

CANCEL: Final = "cancel"

_NUMBER: Final = re.compile(r"[0-9]{1,18}")


def parse_order(words: str) -> FlushOrder:
    """Return what `full`, `max` or a number of blocks asks for.

    Raises:
        ValueError: when it is none of them.
    """
    if words == "full":
        return FlushOrder()
    if words == "max":
        return FlushOrder(copies=False)
    if _NUMBER.fullmatch(words):
        return FlushOrder(max_blocks=int(words))
    raise ValueError(f"no such command: {words}")


def parse_order_of_devices(words: str) -> FlushOrder:
    """Return what one of these words asks for that may be followed by /NAME for each device.

    Raises:
        ValueError: as `parse_order`.
    """
    word, *names = words.split("/")
    return replace(parse_order(word), names=frozenset(names) or None)


def spell(order: FlushOrder) -> str:
    """Return the words for an order."""
    word = "full" if order.copies else "max"
    if order.max_blocks is not None:
        word = str(order.max_blocks)
    return "/".join([word, *sorted(order.names or ())])
