"""`thincow thaw`: let a mount that was frozen go on."""

from pathlib import Path

import click

from thincow.cli.parameters import pid_file_of_mount


@click.command()
@pid_file_of_mount
def thaw(pid_file: Path) -> None:
    r"""Let a mount that was frozen go on; one that is not frozen does.

    \b
    Example:
      thincow thaw --pid-file pid
    """
    from thincow.mount import freezing

    freezing.thaw(pid_file)
