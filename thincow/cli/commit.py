"""`thincow commit`: make the changes of an overlay real."""

import sys
from pathlib import Path

import click

from thincow.cli.parameters import absolute_path

EXIT_FAILED = 1
EXIT_CANCELLED = 130


@click.command()
@click.argument("virtual", type=absolute_path)
@click.option(
    "--data-dir",
    type=absolute_path,
    metavar="DIR",
    help="Where the changes are, if VIRTUAL is not mounted. [default: VIRTUAL.thincow]",
)
@click.option(
    "--metadata-dir",
    type=absolute_path,
    metavar="DIR",
    help="Directory of metadata.db, if it was given to 'thincow overlay'.",
)
def commit(virtual: Path, data_dir: Path | None, metadata_dir: Path | None) -> None:
    """Write the changes of the overlay VIRTUAL to the original file, and remove the overlay.

    Unmounts VIRTUAL first, which is refused while somebody uses it. Can be cut at any time and run
    again: until it has ended, original and data directory together hold the changed file.

    Exit status: 0 when the original is what VIRTUAL was, 1 when something failed, 130 when it was
    cancelled; then the changes are kept.

    \b
    Example:
      thincow overlay big.db try.db
      sqlite3 try.db 'DELETE FROM log; VACUUM;'
      thincow commit try.db
    """  # noqa: D301 - click wants the control character itself
    from thincow.cli import flush_output
    from thincow.engine.flush_offline import flush_offline
    from thincow.engine.flush_order import FlushOrder
    from thincow.engine.options import StoreOptions
    from thincow.mount.overlay import discard, end_overlay

    place = end_overlay(virtual, data_dir, metadata_dir)
    if place.is_over:
        discard(place.data_dir, place.metadata_dir)
        click.echo(f"{virtual}: removed what was left of it")
        return
    options = StoreOptions(place.data_dir, place.metadata_dir, None, upstream_file=place.original)
    with (
        flush_output.shown_progress(sys.stderr.isatty()) as progress,
        flush_output.interruptible() as is_cancelled,
    ):
        result = flush_offline(options, FlushOrder(), progress, is_cancelled)
    if result.error is not None:
        click.echo(f"thincow: commit: {result.error}; the changes are kept", err=True)
        sys.exit(EXIT_FAILED)
    if result.is_cancelled:
        click.echo("thincow: commit: cancelled; the changes are kept", err=True)
        sys.exit(EXIT_CANCELLED)
    discard(place.data_dir, place.metadata_dir, only_clean=True)
    click.echo(f"{place.original}: {result.written_bytes} bytes written")
