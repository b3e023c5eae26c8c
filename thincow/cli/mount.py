"""`thincow mount`: open or create a store and mount it."""

from pathlib import Path
from typing import Any

import click

from thincow.cli.mount_options import mount_options, mount_settings, store_options
from thincow.cli.parameters import absolute_path, named_size
from thincow.engine.options import StoreOptions


@click.command()
@click.argument("mountpoint", type=absolute_path, required=False)
@click.option(
    "--upstream",
    type=absolute_path,
    metavar="DIR",
    help="Directory with the devices to show: regular files, block devices, or symbolic links to "
    "either. They are never written to. Needed unless all devices are made by --size.",
)
@click.option(
    "--size",
    "sizes",
    type=named_size,
    multiple=True,
    metavar="NAME=BYTES",
    help="Also show an empty device of this size that is not upstream, to move something to. It "
    "stays when the option is not given again. May be repeated.",
)
@click.option(
    "--data-dir",
    type=absolute_path,
    required=True,
    metavar="DIR",
    help="Where changed blocks are kept (the file cowdata).",
)
@mount_options
@click.option("--no-mount", is_flag=True, help="Only open, create or check the store.")
def mount(mountpoint: Path | None, **chosen: Any) -> int:
    """Show the devices of the upstream directory, writable, under MOUNTPOINT/devs.

    Returns when the mount can be used. What is written goes to the data directory; upstream does
    not change. Files may grow and be cut like any file; block devices keep their size.

    \b
    Example:
      thincow mount --upstream images --data-dir store mnt
      mkfs.ext4 mnt/devs/disk.img
      thincow umount mnt
    """  # noqa: D301 - click wants the control character itself
    if mountpoint is None and not chosen["no_mount"]:
        raise click.UsageError("Missing argument 'MOUNTPOINT'.")
    store = store_options(
        chosen,
        chosen["data_dir"],
        upstream_dir=chosen["upstream"],
        extra_devices=dict(chosen["sizes"]),
    )
    if store.upstream_dir is None and not store.extra_devices and not store.is_there:
        raise click.UsageError("Missing option '--upstream'.")
    if mountpoint is None or chosen["no_mount"]:
        return _open_only(store)
    from thincow.mount.start import start_mount

    return start_mount(store, mount_settings(chosen, mountpoint))


def _open_only(store: StoreOptions) -> int:
    from thincow.engine.engine import open_engine

    open_engine(store).close()
    return 0
