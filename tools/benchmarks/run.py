"""Runs groups of lines, round after round, and gathers results."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from tools.benchmarks.group import Group
from tools.benchmarks.lab import Lab
from tools.benchmarks.line import Line, Result, Sample


class UnknownLineError(Exception):
    """Raised when a line is asked for that does not exist."""


def chosen_lines(groups: Sequence[Group], patterns: Sequence[str]) -> list[Line]:
    """Return the lines whose key fits any pattern, such as `write-new-*`; all without patterns.

    Raises:
        UnknownLineError: when nothing fits a pattern.
    """
    lines = [line for group in groups for line in group.lines]
    for pattern in patterns:
        if not any(fnmatchcase(line.key, pattern) for line in lines):
            raise UnknownLineError(f"no line fits '{pattern}'; see tools/bench --list")
    if not patterns:
        return lines
    return [line for line in lines if any(fnmatchcase(line.key, name) for name in patterns)]


def run_groups(
    lab: Lab, groups: Sequence[Group], wanted: Sequence[Line], say: Callable[[str], None]
) -> Iterator[Result]:
    """Measure the wanted lines and yield their results, group by group."""
    keys = {line.key for line in wanted}
    for group in groups:
        lines = [line for line in group.lines if line.key in keys]
        if not lines:
            continue
        samples: defaultdict[str, list[Sample]] = defaultdict(list)
        for number in range(1, lab.sizes.rounds + 1):
            say(f"{lines[0].title}: round {number} of {lab.sizes.rounds}")
            try:
                measured = group.measure(lab, keys)
            except (RuntimeError, OSError) as error:
                # The other lines took long enough not to be lost for one.
                say(f"failed: {error}")
                lab.failures.append(f"{lines[0].key} failed: {str(error).splitlines()[0]}")
                break
            for key, sample in measured.items():
                samples[key].append(sample)
        for line in lines:
            if samples[line.key]:
                yield Result(line, samples[line.key])
