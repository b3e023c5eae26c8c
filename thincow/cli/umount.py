"""`thincow umount`: end a mount and wait until its store is closed."""

from pathlib import Path

import click

from thincow.cli.parameters import absolute_path


@click.command()
@click.argument("mountpoint", type=absolute_path)
def umount(mountpoint: Path) -> None:
    r"""Unmount MOUNTPOINT and return when its store is closed.

    Everything written is durable when this succeeds. A mount that is in use stays mounted, and
    the message names who uses it.

    \b
    Example:
      thincow umount mnt
    """
    from thincow.mount.stop import stop_mount

    stop_mount(mountpoint)
