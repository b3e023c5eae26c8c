"""Lines of the table: what is measured, its target, and what came of it."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """How a line stands to its target."""

    STRETCH = "stretch"
    MET = "met"
    MISSED = "missed"
    NONE = "-"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is measured.

    `baseline` names the figure of the same round that a target is a part of; without it targets
    are in `unit`. `ahead_of` names a peer that must be beaten for the stretch target as well.
    """

    key: str
    title: str
    unit: str = "MB/s"
    baseline: str | None = None
    target: float | None = None
    stretch: float | None = None
    lower_is_better: bool = False
    ahead_of: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round gave: the figure, and what others did with the same work beside it."""

    value: float
    others: Mapping[str, float] = field(default_factory=dict)


Samples = dict[str, Sample]


@dataclass(frozen=True, slots=True)
class Result:
    """A line and the samples of all rounds."""

    line: Line
    samples: Sequence[Sample]

    @property
    def values(self) -> list[float]:
        """The figures, one a round."""
        return [sample.value for sample in self.samples]

    @property
    def median(self) -> float:
        """The median of the figures."""
        return statistics.median(self.values)

    def other(self, name: str) -> float | None:
        """Return the median of what another one reached."""
        values = [sample.others[name] for sample in self.samples if name in sample.others]
        return statistics.median(values) if values else None

    @property
    def other_names(self) -> list[str]:
        """Who else did the same work."""
        return list(dict.fromkeys(name for sample in self.samples for name in sample.others))

    @property
    def reached(self) -> float | None:
        """What is held against the target: the median of the rounds' ratios, or of the figures."""
        if self.line.baseline is None:
            return self.median
        ratios = [
            sample.value / sample.others[self.line.baseline]
            for sample in self.samples
            if sample.others.get(self.line.baseline)
        ]
        return statistics.median(ratios) if ratios else None

    @property
    def verdict(self) -> Verdict:
        """Whether the line met its target."""
        reached = self.reached
        if reached is None or self.line.target is None:
            return Verdict.NONE
        if not self._is_within(reached, self.line.target):
            return Verdict.MISSED
        stretch = self.line.stretch
        if stretch is None or not self._is_within(reached, stretch) or self._is_behind():
            return Verdict.MET
        return Verdict.STRETCH

    def _is_within(self, reached: float, bound: float) -> bool:
        return reached <= bound if self.line.lower_is_better else reached >= bound

    def _is_behind(self) -> bool:
        peer = self.other(self.line.ahead_of) if self.line.ahead_of else None
        return peer is not None and self.median <= peer
