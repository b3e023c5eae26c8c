"""`thincow fsck`: check a store, and repair it."""

import sys
from pathlib import Path

import click

from thincow.errors import ConfigurationError, NoStoreError, ThincowError

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
@click.option("--deep", is_flag=True, help="Also read and verify all contents.")
@click.option("--repair", is_flag=True, help="Repair what is wrong, keeping the old metadata.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fsck(
    data_dir: Path,
    metadata_dir: Path | None,
    upstream_dir: Path | None,
    deep: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Check a store that is not mounted; without --repair nothing is changed.

    Looks at the files, the database, the block map, and whether the counts of references are
    right; with --deep also at the contents. --repair first copies the metadata aside, and lists
    which contents are lost, if any.

    Exit status: 0 when all is well or was repaired without loss, 1 when there are problems, 2 for
    wrong usage, 3 when nothing could be examined (no store there, or it is in use).

    \b
    Example:
      thincow fsck --data-dir store
      thincow fsck --data-dir store --deep --repair
    """  # noqa: D301 - click wants the control character itself
    from thincow.cli import fsck_output
    from thincow.engine.fsck import check
    from thincow.engine.repair import repair as repair_store

    with fsck_output.shown_progress(sys.stderr.isatty() and not as_json) as progress:
        try:
            if repair:
                result = repair_store(
                    data_dir, metadata_dir, upstream_dir, deep=deep, progress=progress
                )
                is_well = result.is_complete
                text = (fsck_output.repair_as_json if as_json else fsck_output.repair_as_text)(
                    result
                )
            else:
                report = check(data_dir, metadata_dir, upstream_dir, deep=deep, progress=progress)
                is_well = report.is_clean
                text = (fsck_output.as_json if as_json else fsck_output.as_text)(report)
        except ThincowError as error:
            click.echo(f"thincow: {error}", err=True)
            nothing_seen = isinstance(error, NoStoreError | ConfigurationError)
            sys.exit(EXIT_NOT_EXAMINED if nothing_seen else EXIT_PROBLEMS)
    click.echo(text)
    sys.exit(0 if is_well else EXIT_PROBLEMS)
