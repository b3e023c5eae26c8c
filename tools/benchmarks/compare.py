"""`tools/bench compare`: which lines got worse between two runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.benchmarks.line import Result
from tools.benchmarks.report import number

LEAST_RATIO = 0.9


@dataclass(frozen=True, slots=True)
class Comparison:
    """A line in two runs; `ratio` is above 1 where the new run is better."""

    key: str
    old: float
    new: float
    ratio: float

    @property
    def is_worse(self) -> bool:
        """Whether it got so much worse that a reason has to be given."""
        return self.ratio < LEAST_RATIO


def compare(old: Sequence[Result], new: Sequence[Result]) -> list[Comparison]:
    """Compare lines that both runs have.

    What is held against a baseline of its own run is compared as such a ratio, so that runs on a
    busy and on a quiet machine may be compared.
    """
    before = {result.line.key: result for result in old}
    found = []
    for result in new:
        earlier = before.get(result.line.key)
        if earlier is None or earlier.line.baseline != result.line.baseline:
            continue
        a, b = earlier.reached, result.reached
        if a is None or b is None or not a or not b:
            continue
        ratio = a / b if result.line.lower_is_better else b / a
        found.append(Comparison(result.line.key, a, b, ratio))
    return found


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Return one line for each, those that got worse marked."""
    return "".join(
        f"{'WORSE' if found.is_worse else '     '} {found.key:32} "
        f"{number(found.old):>10} -> {number(found.new):>10}   {found.ratio:5.2f}\n"
        for found in comparisons
    )
