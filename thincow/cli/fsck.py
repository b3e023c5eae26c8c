"""`thincow fsck`: check a store."""

import json
import sys
from pathlib import Path

import click

from thincow.engine.findings import Report
from thincow.errors import ThincowError

EXIT_PROBLEMS = 1
EXIT_NOT_EXAMINED = 3


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Directory of cowdata.",
)
@click.option(
    "--metadata-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of metadata.db; the data directory when not given.",
)
@click.option(
    "--upstream",
    "upstream_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also compare upstream with what the store knows of it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fsck(
    data_dir: Path, metadata_dir: Path | None, upstream_dir: Path | None, as_json: bool
) -> None:
    """Check a store that is not mounted, changing nothing.

    Looks at the files, the database, the block map, and whether the counts of references are
    right. Contents of blocks are not read.

    Exit status: 0 when all is well, 1 when there are problems, 2 for wrong usage, 3 when nothing
    could be examined (no store there, or it is in use).

    \b
    Example:
      thincow fsck --data-dir store
    """  # noqa: D301 - click wants the control character itself
    from thincow.engine.fsck import check

    interactive = sys.stderr.isatty() and not as_json
    try:
        report = check(
            data_dir, metadata_dir, upstream_dir, progress=_show if interactive else None
        )
    except ThincowError as error:
        click.echo(f"thincow: {error}", err=True)
        sys.exit(EXIT_NOT_EXAMINED)
    click.echo(_as_json(report) if as_json else _as_text(report))
    sys.exit(0 if report.is_clean else EXIT_PROBLEMS)


def _show(stage: str) -> None:
    click.echo(f"checking {stage} ...", err=True)


def _as_text(report: Report) -> str:
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.code}: {finding.place}: {finding.message}")
        lines.append(f"    repair: {finding.repair}")
    kept = dict.fromkeys(report.totals, 0)
    for finding in report.findings:
        kept[finding.code] += 1
    lines += [
        f"{code}: {n - kept[code]} more" for code, n in report.totals.items() if n > kept[code]
    ]
    lines += [f"{name.replace('_', ' ')}: {number}" for name, number in report.facts.items()]
    problems = sum(report.totals.values())
    lines.append("no problems found" if report.is_clean else f"problems found: {problems}")
    return "\n".join(lines)


def _as_json(report: Report) -> str:
    findings = [
        {
            "code": finding.code,
            "place": finding.place,
            "message": finding.message,
            "repair": finding.repair,
        }
        for finding in report.findings
    ]
    result = {
        "clean": report.is_clean,
        "findings": findings,
        "totals": report.totals,
        "facts": report.facts,
    }
    return json.dumps(result, indent=2)
