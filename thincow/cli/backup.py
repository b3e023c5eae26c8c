"""`thincow backup`: copy a store, also while it is mounted."""

import sys
from pathlib import Path

import click

from thincow.cli.parameters import absolute_path
from thincow.cli.store_choice import StoreChoice, chosen_view, store_options


@click.command()
@click.argument("places", type=absolute_path, nargs=-1, metavar="[MOUNTPOINT] DEST")
@store_options
@click.option(
    "--incremental",
    is_flag=True,
    help="DEST is an older backup of this store, or one that was cut short: write only what "
    "differs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def backup(
    places: tuple[Path, ...],
    choice: StoreChoice,
    incremental: bool,
    as_json: bool,
) -> None:
    r"""Copy one moment of a store to the directory DEST, while clients go on writing.

    DEST is a store of its own: mount it with --data-dir. It is valid only with upstream as it is
    now; a later flush makes it show wrong contents. A flush that runs waits until the backup has
    ended. A backup that was cut short is refused by all commands; complete it with --incremental.

    \b
    Example:
      thincow backup mnt copy
      thincow backup mnt copy --incremental
      thincow backup --data-dir store copy
    """
    from thincow.cli.backup_output import as_text, to_json
    from thincow.cli.fsck_output import shown_progress
    from thincow.engine.backup import back_up

    wanted = 2 if choice.data_dir is None else 1
    if len(places) != wanted:
        raise click.UsageError("Give MOUNTPOINT and DEST, or --data-dir and DEST.")
    mount_point = places[0] if choice.data_dir is None else None
    target = places[-1]
    with (
        chosen_view("backup", mount_point, choice) as view,
        shown_progress(sys.stderr.isatty() and not as_json, "copying") as progress,
    ):
        result = back_up(view, target, incremental=incremental, progress=progress)
    click.echo(to_json(result) if as_json else as_text(target, result))
