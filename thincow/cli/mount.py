"""`thincow mount`: open or create a store and mount it."""

from pathlib import Path
from typing import Any

import click

from thincow.block_types import DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE
from thincow.cli.parameters import IN_MEMORY, absolute_path, path_or_memory, size_type
from thincow.engine.options import (
    CHECKSUM_WIDTHS,
    DEFAULT_HASH_TABLE_BYTES,
    HASH_ENTRY_BYTES,
    StoreOptions,
)

_BLOCK_SIZE = size_type(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE, power_of_two=True)
_CHECKSUM_BITS = click.Choice([str(bits) for bits in CHECKSUM_WIDTHS])


@click.command()
@click.argument("mountpoint", type=absolute_path, required=False)
@click.option(
    "--upstream",
    type=absolute_path,
    required=True,
    metavar="DIR",
    help="Directory with the devices to show: regular files, block devices, or symbolic links to "
    "either. They are never written to.",
)
@click.option(
    "--data-dir",
    type=absolute_path,
    required=True,
    metavar="DIR",
    help="Where changed blocks are kept (the file cowdata).",
)
@click.option(
    "--metadata-dir",
    type=path_or_memory,
    metavar="DIR",
    help="Where metadata.db is kept, or - for memory only, which dies with the mount. "
    "[default: the data directory]",
)
@click.option(
    "--block-size",
    type=_BLOCK_SIZE,
    metavar="BYTES",
    help="Unit of mapping and deduplication: a power of two from 512 to 1M. Fixed when the store "
    f"is created. [default: {DEFAULT_BLOCK_SIZE}, or the store's]",
)
@click.option(
    "--hash-table-size",
    type=size_type(HASH_ENTRY_BYTES),
    metavar="BYTES",
    default=DEFAULT_HASH_TABLE_BYTES,
    help="Bound on the memory of contents seen, 16 bytes each. A small one finds fewer "
    "duplicates. [default: 1G]",
)
@click.option(
    "--max-cow-blocks",
    type=click.IntRange(min=0),
    metavar="N",
    help="Most blocks that cowdata may hold; past it, writes that need space answer ENOSPC.",
)
@click.option(
    "--max-metadata-size",
    type=size_type(1),
    metavar="BYTES",
    help="Greatest size of metadata.db; past it, writes that need space answer ENOSPC.",
)
@click.option(
    "--checksum-bits",
    type=_CHECKSUM_BITS,
    help="Verify every block that is read against what was written or first read there. May be "
    "switched on later. [default: 0 (off), or the store's]",
)
@click.option(
    "--retroactive",
    is_flag=True,
    help="When a written block is known, look whether the blocks written before it are known too.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; log to stderr.")
@click.option(
    "--pid-file",
    type=absolute_path,
    metavar="PATH",
    help="File that holds the process's number while the mount runs; a second instance with it "
    "is refused.",
)
@click.option(
    "-R",
    "--read-only",
    is_flag=True,
    help="Refuse all writes and leave the store untouched.",
)
@click.option(
    "-r",
    "--read-only-upstream",
    is_flag=True,
    help="Never open upstream for writing: flushing is disabled.",
)
@click.option(
    "-o",
    "fuse_options",
    multiple=True,
    metavar="OPT",
    help="FUSE options such as allow_other; or direct_io to bypass the kernel's page cache. May "
    "be repeated.",
)
@click.option("--fsck", is_flag=True, help="Check the store before it is mounted.")
@click.option("--no-mount", is_flag=True, help="Only open, create or check the store.")
@click.option(
    "--temp-dir",
    type=absolute_path,
    metavar="DIR",
    help="Where large temporary data goes. [default: memory]",
)
@click.option("--force", is_flag=True, help="Go on although upstream has changed.")
@click.option(
    "--log-file",
    type=absolute_path,
    metavar="FILE",
    help="Log to this file. [default: the system's log, with -f stderr]",
)
@click.option("-v", "--verbose", is_flag=True, help="Say more in the log.")
def mount(mountpoint: Path | None, **chosen: Any) -> int:
    r"""Show the devices of the upstream directory, writable, under MOUNTPOINT/devs.

    Returns when the mount can be used. What is written goes to the data directory; upstream does
    not change.

    \b
    Example:
      thincow mount --upstream images --data-dir store mnt
      mkfs.ext4 mnt/devs/disk.img
      thincow umount mnt
    """
    from thincow.mount.options import MountOptions, parse_fuse_options

    if mountpoint is None and not chosen["no_mount"]:
        raise click.UsageError("Missing argument 'MOUNTPOINT'.")
    fuse = parse_fuse_options(chosen["fuse_options"])
    store = _store_options(chosen, read_only=chosen["read_only"] or fuse.read_only)
    if mountpoint is None or chosen["no_mount"]:
        return _open_only(store)
    from thincow.mount.start import start_mount

    return start_mount(
        store,
        MountOptions(
            mount_point=mountpoint,
            fuse=fuse,
            foreground=chosen["foreground"],
            pid_file=chosen["pid_file"],
            log_file=chosen["log_file"],
            verbose=chosen["verbose"],
        ),
    )


def _store_options(chosen: dict[str, Any], *, read_only: bool) -> StoreOptions:
    metadata_dir = chosen["metadata_dir"] or chosen["data_dir"]
    bits = chosen["checksum_bits"]
    return StoreOptions(
        data_dir=chosen["data_dir"],
        metadata_dir=None if metadata_dir == IN_MEMORY else metadata_dir,
        upstream_dir=chosen["upstream"],
        block_size=chosen["block_size"],
        hash_table_bytes=chosen["hash_table_size"],
        max_cow_blocks=chosen["max_cow_blocks"],
        max_metadata_bytes=chosen["max_metadata_size"],
        checksum_bits=None if bits is None else int(bits),
        retroactive=chosen["retroactive"],
        read_only=read_only,
        read_only_upstream=chosen["read_only_upstream"],
        force=chosen["force"],
        check=chosen["fsck"],
        temp_dir=chosen["temp_dir"],
    )


def _open_only(store: StoreOptions) -> int:
    from thincow.engine.engine import open_engine

    open_engine(store).close()
    return 0
