"""`thincow flush`: write the changes of a mount back upstream."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thincow.cli.parameters import absolute_path
from thincow.cli.store_choice import StoreChoice, store_options
from thincow.errors import ConfigurationError

if TYPE_CHECKING:
    from thincow.engine.flush_order import FlushOrder
    from thincow.engine.flush_outcome import FlushOutcome, FlushProgress

EXIT_FAILED = 1
EXIT_CANCELLED = 130


@click.command()
@click.argument("mountpoint", type=absolute_path, required=False)
@store_options
@click.option(
    "--offline",
    is_flag=True,
    help="Flush a store that is not mounted, named by --data-dir and --upstream.",
)
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
    mountpoint: Path | None,
    choice: StoreChoice,
    offline: bool,
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
      thincow flush --offline --data-dir store --upstream disks
    """  # noqa: D301 - click wants the control character itself
    from thincow.cli import flush_output
    from thincow.engine.flush_order import FlushOrder

    if blocks is not None and one_pass:
        raise click.UsageError("--blocks and --pass exclude each other.")
    if dry_run and (blocks is not None or one_pass):
        raise click.UsageError("--dry-run tells of a whole flush: leave out --blocks and --pass.")
    order = FlushOrder(blocks, copies=not one_pass, names=frozenset(names) or None)
    has_bar = sys.stderr.isatty() and not as_json and not dry_run
    with flush_output.shown_progress(has_bar) as progress:
        if offline:
            if mountpoint is not None or choice.data_dir is None or choice.upstream_dir is None:
                raise click.UsageError("--offline needs --data-dir and --upstream, no MOUNTPOINT.")
            result = _flush_store(choice, order, progress, dry_run)
        else:
            if mountpoint is None or choice != StoreChoice(None, None, None):
                raise click.UsageError("Give MOUNTPOINT, or --offline with its directories.")
            result = _flush_mount(mountpoint, order, progress, dry_run)
    if isinstance(result, str):
        click.echo(flush_output.render_plan(result, names, as_json))
        return
    click.echo(flush_output.render_outcome(result, as_json))
    is_whole = blocks is None and not one_pass
    if result.error is not None:
        click.echo(f"thincow: flush: {result.error}", err=True)
        sys.exit(EXIT_FAILED)
    if result.left_bytes and result.is_cancelled:
        sys.exit(EXIT_CANCELLED)
    if result.left_bytes and is_whole:
        click.echo("thincow: flush: changed meanwhile, or cancelled by somebody else", err=True)
        sys.exit(EXIT_FAILED)


def _flush_mount(
    mountpoint: Path, order: "FlushOrder", progress: "FlushProgress", dry_run: bool
) -> "str | FlushOutcome":
    """Return the plan as JSON, or what was done."""
    from thincow.cli import flush_output
    from thincow.mount.flush_client import run_flush, unknown_devices
    from thincow.mount.live_mount import LiveMount

    with LiveMount(mountpoint) as mount:
        for name in unknown_devices(mount, sorted(order.names or ())):
            raise ConfigurationError(f"{mountpoint} has no device {name}")
        if dry_run:
            return mount.read("debug/flush-plan.json")
        with flush_output.interruptible() as is_cancelled:
            return run_flush(mount, order, progress, is_cancelled)


def _flush_store(
    choice: StoreChoice, order: "FlushOrder", progress: "FlushProgress", dry_run: bool
) -> "str | FlushOutcome":
    """Return the plan as JSON, or what was done."""
    from dataclasses import replace

    from thincow.cli import flush_output
    from thincow.engine.flush_offline import flush_offline, plan_offline
    from thincow.engine.options import StoreOptions

    data_dir, upstream = choice.data_dir, choice.upstream_dir
    assert data_dir is not None
    assert upstream is not None
    options = StoreOptions(data_dir, choice.metadata_dir or data_dir, upstream)
    if upstream.is_file() or upstream.is_block_device():  # the original of an overlay
        options = replace(options, upstream_dir=None, upstream_file=upstream)
    if dry_run:
        return plan_offline(options, order.names or ()).as_json()
    with flush_output.interruptible() as is_cancelled:
        return flush_offline(options, order, progress, is_cancelled)
