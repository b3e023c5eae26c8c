"""A group of lines that are measured together, one round at a time."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tools.benchmarks.lab import Lab
from tools.benchmarks.line import Line, Samples

Wanted = Collection[str]
"""Keys of the lines that are asked for; work for the others may be left out."""


@dataclass(frozen=True, slots=True)
class Group:
    """Lines, and what measures one round of them."""

    lines: tuple[Line, ...]
    measure: Callable[[Lab, Wanted], Samples]


def perfect(null: float, plain: float) -> float:
    """Return what an engine could reach that costs nothing: each byte goes through both."""
    return 1 / (1 / null + 1 / plain)
