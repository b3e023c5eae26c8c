"""`thincow fsck`: check a store, and repair it."""

import os
import sys
from pathlib import Path
from typing import Final

import click

from thincow.cli.parameters import absolute_path, size_type
from thincow.engine.findings import Progress, Report
from thincow.errors import ConfigurationError, NoStoreError, ThincowError

EXIT_PROBLEMS = 1
EXIT_NOT_EXAMINED = 3
_RATE: Final = 64 << 20
_NICE: Final = 10


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
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
@click.option(
    "--online",
    "mount_point",
    type=absolute_path,
    metavar="MOUNTPOINT",
    help="Check this mount while it serves, instead of --data-dir.",
)
@click.option(
    "--rate",
    type=size_type(1),
    metavar="BYTES",
    help="With --online --deep: most bytes to read in a second. [default: 64M]",
)
@click.option("--deep", is_flag=True, help="Also read and verify all contents.")
@click.option("--repair", is_flag=True, help="Repair what is wrong, keeping the old metadata.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def fsck(
    data_dir: Path | None,
    metadata_dir: Path | None,
    upstream_dir: Path | None,
    mount_point: Path | None,
    rate: int | None,
    deep: bool,
    repair: bool,
    as_json: bool,
) -> None:
    """Check a store; without --repair nothing is changed.

    Looks at the files, the database, the block map, and whether the counts of references are
    right; with --deep also at the contents. --repair first copies the metadata aside, and lists
    which contents are lost, if any. --online checks one moment of a mounted store.

    Exit status: 0 when all is well or was repaired without loss, 1 when there are problems, 2 for
    wrong usage, 3 when nothing could be examined (no store there, or it is in use).

    \b
    Example:
      thincow fsck --data-dir store
      thincow fsck --data-dir store --deep --repair
      thincow fsck --online mnt --deep --rate 20M
    """  # noqa: D301 - click wants the control character itself
    from thincow.cli import fsck_output
    from thincow.engine.fsck import check
    from thincow.engine.repair import repair as repair_store

    if (mount_point is None) == (data_dir is None):
        raise click.UsageError("Give either --data-dir or --online MOUNTPOINT.")
    if rate is not None and mount_point is None:
        raise click.UsageError("--rate goes with --online.")
    if mount_point is not None and (repair or metadata_dir or upstream_dir):
        raise click.UsageError("--online goes with --deep, --rate and --json only.")
    with fsck_output.shown_progress(sys.stderr.isatty() and not as_json) as progress:
        try:
            if repair:
                assert data_dir is not None
                result = repair_store(
                    data_dir, metadata_dir, upstream_dir, deep=deep, progress=progress
                )
                is_well = result.is_complete
                text = (fsck_output.repair_as_json if as_json else fsck_output.repair_as_text)(
                    result
                )
            else:
                if data_dir is None:
                    assert mount_point is not None
                    report = _check_online(mount_point, rate or _RATE, deep, progress)
                else:
                    report = check(
                        data_dir, metadata_dir, upstream_dir, deep=deep, progress=progress
                    )
                is_well = report.is_clean
                text = (fsck_output.as_json if as_json else fsck_output.as_text)(report)
        except ThincowError as error:
            click.echo(f"thincow: {error}", err=True)
            nothing_seen = isinstance(error, NoStoreError | ConfigurationError)
            sys.exit(EXIT_NOT_EXAMINED if nothing_seen else EXIT_PROBLEMS)
    click.echo(text)
    sys.exit(0 if is_well else EXIT_PROBLEMS)


def _check_online(mount_point: Path, rate: int, deep: bool, progress: Progress) -> Report:
    from thincow.engine.fsck import check_view
    from thincow.mount.live_view import open_live_view
    from thincow.store.disk import ThrottledDisk

    os.nice(_NICE)
    with open_live_view(mount_point, "check", private=deep) as view:
        return check_view(view, disk=ThrottledDisk(rate), deep=deep, progress=progress)
