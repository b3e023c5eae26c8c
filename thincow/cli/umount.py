"""`thincow umount`: end a mount and wait until its store is closed."""

from pathlib import Path

import click

from thincow.cli.parameters import absolute_path


@click.command()
@click.argument("mountpoint", type=absolute_path)
@click.option("--discard", is_flag=True, help="Remove the store as well: its changes are lost.")
def umount(mountpoint: Path, discard: bool) -> None:
    """Unmount MOUNTPOINT and return when its store is closed.

    Everything written is durable when this succeeds. A mount that is in use stays mounted, and
    the message names who uses it.

    \b
    Example:
      thincow umount mnt
      thincow umount --discard try.db
    """  # noqa: D301 - click wants the control character itself
    if discard:
        from thincow.mount.overlay import discard_mount

        discard_mount(mountpoint)
    else:
        from thincow.mount.stop import stop_mount

        stop_mount(mountpoint)
