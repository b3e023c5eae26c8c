"""What `thincow fsck` shows: reports as text and as JSON, and a progress bar."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from thincow.engine.findings import NoProgress, Progress, Report
from thincow.engine.repair import RepairResult


@contextmanager
def shown_progress(on_terminal: bool, verb: str = "checking") -> Iterator[Progress]:
    """Show how far a check, or what else is being done, is; on a terminal only."""
    if not on_terminal:
        yield NoProgress()
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        yield _Bar(bars, verb)


class _Bar:
    """One bar: of the stage that runs now."""

    def __init__(self, bars: Any, verb: str) -> None:
        self._bars = bars
        self._verb = verb
        self._task = bars.add_task(verb, total=None)

    def stage(self, name: str) -> None:
        """See Progress."""
        self._bars.reset(self._task, total=None, description=f"{self._verb} {name}")

    def advance(self, part: float) -> None:
        """See Progress."""
        self._bars.update(self._task, total=1.0, completed=part)


def as_text(report: Report) -> str:
    """Return a report for people."""
    lines = _finding_lines(report)
    lines += [f"{name.replace('_', ' ')}: {number}" for name, number in report.facts.items()]
    problems = sum(report.totals.values())
    lines.append("no problems found" if report.is_clean else f"problems found: {problems}")
    return "\n".join(lines)


def as_json(report: Report) -> str:
    """Return a report as a JSON object."""
    return json.dumps(_report_object(report), indent=2)


def repair_as_text(result: RepairResult) -> str:
    """Return what a repair did for people."""
    lines = [as_text(result.before)]
    lines += [f"old file kept: {path}" for path in result.kept]
    for loss in result.losses:
        end = loss.offset_bytes + loss.length_bytes
        lines.append(f"device {loss.device}, bytes {loss.offset_bytes} to {end - 1}: {loss.reason}")
    lines += result.notes
    if result.after is None:
        if not result.before.is_clean:
            lines.append("nothing was repaired")
        return "\n".join(lines)
    if result.after.is_clean:
        lines.append("repaired" if not result.losses else "repaired, with losses")
    else:
        lines += ["after the repair:", *_finding_lines(result.after)]
        lines.append(f"problems left: {sum(result.after.totals.values())}")
    return "\n".join(lines)


def repair_as_json(result: RepairResult) -> str:
    """Return what a repair found and did as a JSON object."""
    document = _report_object(result.before) | {
        "clean": result.is_complete,
        "repaired": result.after is not None,
        "kept": [str(path) for path in result.kept],
        "lost": [
            {
                "device": loss.device,
                "offset_bytes": loss.offset_bytes,
                "length_bytes": loss.length_bytes,
                "reason": loss.reason,
            }
            for loss in result.losses
        ],
        "notes": list(result.notes),
        "left": _report_object(result.last)["findings"],
    }
    return json.dumps(document, indent=2)


def _finding_lines(report: Report) -> list[str]:
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.code}: {finding.place}: {finding.message}")
        lines.append(f"    repair: {finding.repair}")
    kept = dict.fromkeys(report.totals, 0)
    for finding in report.findings:
        kept[finding.code] += 1
    return lines + [
        f"{code}: {n - kept[code]} more" for code, n in report.totals.items() if n > kept[code]
    ]


def _report_object(report: Report) -> dict[str, Any]:
    findings = [
        {
            "code": finding.code,
            "place": finding.place,
            "message": finding.message,
            "repair": finding.repair,
        }
        for finding in report.findings
    ]
    return {
        "clean": report.is_clean,
        "findings": findings,
        "totals": report.totals,
        "facts": report.facts,
    }
