"""`thincow overlay`: show one file as another that can be changed."""

from pathlib import Path
from typing import Any

import click

from thincow.cli.mount_options import mount_options, mount_settings, store_options
from thincow.cli.parameters import IN_MEMORY, absolute_path


@click.command()
@click.argument("original", type=absolute_path)
@click.argument("virtual", type=absolute_path)
@click.option(
    "--data-dir",
    type=absolute_path,
    metavar="DIR",
    help="Where changes are kept. [default: VIRTUAL.thincow]",
)
@click.option("--temporary", is_flag=True, help="Forget the changes when it is unmounted.")
@mount_options
def overlay(original: Path, virtual: Path, data_dir: Path | None, **chosen: Any) -> int:
    """Show the file ORIGINAL as VIRTUAL, which can be changed while ORIGINAL stays as it is.

    Returns when VIRTUAL can be used; it is made when there is no such file. It can be read,
    written, mapped, grown and cut like any file. The changes go to the data directory, and the same
    command shows them again later. 'thincow commit VIRTUAL' makes them real, 'thincow umount
    --discard VIRTUAL' forgets them.

    \b
    Example:
      thincow overlay big.db try.db
      sqlite3 try.db 'DELETE FROM log; VACUUM;'
      thincow commit try.db
    """  # noqa: D301 - click wants the control character itself
    from dataclasses import replace

    from thincow.mount.overlay import default_data_dir
    from thincow.mount.start import start_mount

    if chosen["temporary"] and chosen["metadata_dir"] == IN_MEMORY:
        raise click.UsageError("--temporary and --metadata-dir - exclude each other.")
    store = store_options(
        chosen, data_dir or default_data_dir(virtual), upstream_dir=None, upstream_file=original
    )
    settings = replace(
        mount_settings(chosen, virtual), original=original, is_temporary=chosen["temporary"]
    )
    return start_mount(store, settings)
