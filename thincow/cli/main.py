"""The command `thincow`: finds the subcommand, turns errors into one line and an exit status."""

import importlib
import logging
import sys
from typing import Final

import click

from thincow import __version__
from thincow.errors import ThincowError

_COMMANDS: Final = (
    "backup",
    "commit",
    "diff",
    "flush",
    "freeze",
    "fsck",
    "mount",
    "overlay",
    "thaw",
    "umount",
)
_USAGE_ERROR: Final = 2
_INTERRUPTED: Final = 130


class _LazyGroup(click.Group):
    """A group that imports a command's module only when the command is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"thincow.cli.{cmd_name}")
        command = getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="thincow", message="%(prog)s %(version)s")
def thincow() -> None:
    r"""Writable, deduplicated copy-on-write views of disks and disk images.

    \b
    Example:
      thincow mount --upstream images --data-dir store mnt
      thincow umount mnt
    """


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(_run())


def _run() -> int:
    try:
        status = thincow.main(prog_name="thincow", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except ThincowError as error:
        click.echo(f"thincow: {error}", err=True)
        return error.exit_code
    except Exception as error:
        logging.getLogger(__name__).debug("unexpected error", exc_info=True)
        from thincow.mount.daemon import describe

        click.echo(f"thincow: unexpected error: {describe(error)}", err=True)
        return 1
    return status if isinstance(status, int) else 0
