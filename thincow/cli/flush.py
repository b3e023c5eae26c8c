"""`thincow flush`: write the changes of a mount back upstream."""

import sys
from pathlib import Path

import click

from thincow.cli.parameters import absolute_path

EXIT_FAILED = 1
EXIT_CANCELLED = 130


@click.command()
@click.argument("mountpoint", type=absolute_path)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    metavar="N",
    help="Flush at most N blocks.",
)
@click.option(
    "--pass",
    "one_pass",
    is_flag=True,
    help="Flush what needs no copies: stops where blocks wait for each other.",
)
@click.option(
    "--device",
    "names",
    multiple=True,
    metavar="NAME",
    help="Flush only this device; may be repeated. Blocks whose place upstream is still shown by "
    "another device wait for that one.",
)
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def flush(
    mountpoint: Path,
    blocks: int | None,
    one_pass: bool,
    names: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write what was changed under MOUNTPOINT to the upstream devices: it overwrites your disks.

    Can be cut at any time and run again. Ctrl-C ends it after the batch under way; a second one
    returns at once, and the batch is finished without you.

    Exit status: 0 when it was done, 1 when it failed or something is left, 130 when it was
    cancelled.

    \b
    Example:
      thincow flush --dry-run mnt
      thincow flush mnt
      thincow flush --device sda mnt
    """  # noqa: D301 - click wants the control character itself
    from thincow.cli import flush_output
    from thincow.engine.flush import FlushOrder
    from thincow.errors import ConfigurationError
    from thincow.mount.flush_client import run_flush, unknown_devices
    from thincow.mount.live_mount import LiveMount

    if blocks is not None and one_pass:
        raise click.UsageError("--blocks and --pass exclude each other.")
    if dry_run and (blocks is not None or one_pass):
        raise click.UsageError("--dry-run tells of a whole flush: leave out --blocks and --pass.")
    has_bar = sys.stderr.isatty() and not as_json and not dry_run
    with flush_output.shown_progress(has_bar) as progress, LiveMount(mountpoint) as mount:
        for name in unknown_devices(mount, names):
            raise ConfigurationError(f"{mountpoint} has no device {name}")
        if dry_run:
            plan = mount.read("debug/flush-plan.json")
            click.echo(flush_output.render_plan(plan, names, as_json))
            return
        order = FlushOrder(blocks, copies=not one_pass, names=frozenset(names) or None)
        with flush_output.interruptible() as is_cancelled:
            outcome = run_flush(mount, order, progress, is_cancelled)
    click.echo(flush_output.render_outcome(outcome, as_json))
    is_whole = blocks is None and not one_pass
    if outcome.error is not None:
        click.echo(f"thincow: flush: {outcome.error}", err=True)
        sys.exit(EXIT_FAILED)
    if outcome.left_bytes and outcome.is_cancelled:
        sys.exit(EXIT_CANCELLED)
    if outcome.left_bytes and is_whole:
        click.echo("thincow: flush: changed meanwhile, or cancelled by somebody else", err=True)
        sys.exit(EXIT_FAILED)
