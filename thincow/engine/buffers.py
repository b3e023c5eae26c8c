"""Buffers that are used again and again."""

import numpy as np


def new_buffer(length: int) -> memoryview:
    """Return a buffer of `length` bytes with any content: it costs memory where it is used only."""
    return np.empty(length, np.uint8).data
