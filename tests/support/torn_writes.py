"""Writes of which only the beginning has arrived.

The kernel may send a write through the page cache in several requests: when it begins inside a
page, and when the program's memory is just not at hand. Each request is a write of its own to us.
"""


def is_torn_write(before: bytes, offset: int, data: bytes, found: bytes) -> bool:
    """Tell whether a file holds `found` when it held `before` and a write ended somewhere."""
    part = found[offset : offset + len(data)]
    differing = (at for at, (a, b) in enumerate(zip(part, data, strict=False)) if a != b)
    taken = next(differing, len(part))
    return found == before[:offset].ljust(offset, b"\0") + part[:taken] + before[offset + taken :]
