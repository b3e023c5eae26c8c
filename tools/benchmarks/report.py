"""Shows results: as a table on a terminal, as JSON, as Markdown."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.benchmarks.line import Line, Result, Sample

COLUMNS = ("line", "unit", "min", "median", "max", "reached", "target", "stretch", "verdict")
_STYLES = {"missed": "red", "met": "green", "stretch": "bold green", "-": "dim"}
_WIDTH = 200
"""Where the output goes to a file."""


def number(value: float) -> str:
    """Write a figure with about three digits that count."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"


def cells(result: Result) -> tuple[str, ...]:
    """Return one line's row."""
    line, reached = result.line, result.reached
    against = f" of {line.baseline}" if line.baseline else ""
    bounds = [
        "" if bound is None else f"{'≤' if line.lower_is_better else '≥'} {number(bound)}"
        for bound in (line.target, line.stretch)
    ]
    return (
        line.title,
        line.unit,
        number(min(result.values)),
        number(result.median),
        number(max(result.values)),
        "" if reached is None else number(reached) + against,
        *bounds,
        result.verdict.value,
    )


def others(result: Result) -> str:
    """Tell what others did with the same work."""
    return ", ".join(
        f"{name} {number(value)}"
        for name in result.other_names
        if (value := result.other(name)) is not None
    )


def print_table(machine: Mapping[str, str], results: Sequence[Result], notes: list[str]) -> None:
    """Print for a terminal."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(", ".join(f"{what} {value}" for what, value in machine.items()))
    table = Table()
    for column in (*COLUMNS, "beside it"):
        is_text = column in {"line", "unit", "verdict", "beside it"}
        table.add_column(column, justify="left" if is_text else "right")
    for result in results:
        style = _STYLES[result.verdict.value]
        row = (result.line.key, *cells(result)[1:-1], f"[{style}]{result.verdict}[/]")
        table.add_row(*row, others(result))
    console.print(table)
    for note in notes:
        console.print(f"Note: {note}")


def markdown(results: Sequence[Result]) -> str:
    """Return the table for a document."""
    columns = (*COLUMNS, "beside it")
    rows = [columns, ("---",) * len(columns)]
    rows += [(*cells(result), others(result)) for result in results]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_json(
    machine: Mapping[str, str], results: Sequence[Result], notes: list[str]
) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "machine": dict(machine),
        "notes": notes,
        "lines": [
            {
                **asdict(result.line),
                "median": result.median,
                "reached": result.reached,
                "verdict": result.verdict.value,
                "samples": [asdict(sample) for sample in result.samples],
            }
            for result in results
        ],
    }


def from_json(data: Mapping[str, Any]) -> list[Result]:
    """Return the results that `to_json` wrote."""
    return [
        Result(
            Line(**{name: row[name] for name in Line.__dataclass_fields__}),
            [Sample(**sample) for sample in row["samples"]],
        )
        for row in data["lines"]
    ]
