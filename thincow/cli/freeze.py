"""`thincow freeze`: stop a mount while its store is copied."""

from pathlib import Path

import click

from thincow.cli.parameters import pid_file_of_mount


@click.command()
@pid_file_of_mount
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="SECONDS",
    help="How long to wait until everything is saved. [default: 60]",
)
def freeze(pid_file: Path, timeout: float) -> None:
    r"""Save everything and stop the process of a mount, so that its store can be copied.

    Whoever uses the mount waits until it is thawed. The copy is valid only with the upstream
    devices as they are now.

    \b
    Example:
      thincow freeze --pid-file pid
      cp -a --sparse=always store copy
      thincow thaw --pid-file pid
    """
    from thincow.mount import freezing

    freezing.freeze(pid_file, timeout)
