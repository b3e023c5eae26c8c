"""`thincow diff`: list what has changed."""

from contextlib import ExitStack
from pathlib import Path

import click

from thincow.cli.parameters import absolute_path
from thincow.cli.store_choice import StoreChoice, chosen_view, store_options


@click.command()
@click.argument("mountpoint", type=absolute_path, required=False)
@store_options
@click.option(
    "--device",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this device; may be repeated.",
)
@click.option(
    "--from",
    "base_dir",
    type=absolute_path,
    metavar="BACKUP",
    help="Compare with a backup of the same store instead of upstream.",
)
@click.option(
    "--map-only",
    is_flag=True,
    help="Read no contents: quick, but also lists blocks that were rewritten as they were.",
)
@click.option("--summary", is_flag=True, help="Print sums only.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def diff(
    mountpoint: Path | None,
    choice: StoreChoice,
    names: tuple[str, ...],
    base_dir: Path | None,
    map_only: bool,
    summary: bool,
    as_json: bool,
) -> None:
    r"""List the ranges of bytes in which devices differ from upstream.

    Of a mount, one moment is shown, with everything written before it. Each line holds device,
    offset, length, and what the range holds now: new data, zeroes (zeroed), what is elsewhere
    upstream (moved, with device and offset), or, with --from, its upstream content again
    (original). The columns are separated by tabs. With --data-dir contents are compared only when
    --upstream is given, too.

    \b
    Example:
      thincow diff mnt
      thincow diff --data-dir store --upstream disks --device disk.img --summary
      thincow diff mnt --from backup
    """
    from thincow.cli.diff_output import print_json, print_text
    from thincow.engine.diff import State
    from thincow.engine.store_view import choose_devices, open_offline_view, open_source
    from thincow.engine.upstream_findings import require_recorded_upstream, require_valid_base
    from thincow.errors import StoreMismatchError
    from thincow.store.disk import Disk

    if map_only and base_dir is not None:
        raise click.UsageError("--from compares contents: it does not go with --map-only.")
    disk = Disk()
    with ExitStack() as stack:
        view = stack.enter_context(chosen_view("diff", mountpoint, choice, private=not map_only))
        header = view.header()
        devices = choose_devices(header, names)
        reads = not map_only and (view.upstream_dir is not None or base_dir is not None)
        if reads and view.upstream_dir is not None:
            require_recorded_upstream(view.upstream_dir, view.snapshot, header)
        source = stack.enter_context(open_source(disk, view, header)) if reads else None
        after, before = State(view.snapshot, source), None
        if base_dir is not None:
            base = stack.enter_context(open_offline_view(base_dir, None, view.upstream_dir))
            base_header = base.header()
            if base_header.store_id != header.store_id:
                raise StoreMismatchError(f"{base_dir} is not a backup of this store")
            require_valid_base(base, base_header, header)
            base_source = stack.enter_context(open_source(disk, base, base_header))
            before = State(base.snapshot, base_source)
        show = print_json if as_json else print_text
        show(header, devices, after, before, with_ranges=not summary)
        view.require_valid()
