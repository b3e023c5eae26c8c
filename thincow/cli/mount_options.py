"""What `thincow mount` and `thincow overlay` have in common: options, and what they mean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from thincow.block_types import DEFAULT_BLOCK_SIZE, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE
from thincow.cli.parameters import IN_MEMORY, absolute_path, path_or_memory, size_type
from thincow.engine.options import (
    CHECKSUM_WIDTHS,
    DEFAULT_HASH_TABLE_BYTES,
    HASH_ENTRY_BYTES,
    StoreOptions,
)
from thincow.mount.options import MountOptions, parse_fuse_options

_BLOCK_SIZE = size_type(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE, power_of_two=True)
_CHECKSUM_BITS = click.Choice([str(bits) for bits in CHECKSUM_WIDTHS])

Command = Callable[..., Any]

_OPTIONS: Final = (
    click.option(
        "--metadata-dir",
        type=path_or_memory,
        metavar="DIR",
        help="Where metadata.db is kept, or - for memory only, which dies with the mount. "
        "[default: the data directory]",
    ),
    click.option(
        "--block-size",
        type=_BLOCK_SIZE,
        metavar="BYTES",
        help="Unit of mapping and deduplication: a power of two from 512 to 1M. Fixed when the "
        f"store is created. [default: {DEFAULT_BLOCK_SIZE}, or the store's]",
    ),
    click.option(
        "--hash-table-size",
        type=size_type(HASH_ENTRY_BYTES),
        metavar="BYTES",
        default=DEFAULT_HASH_TABLE_BYTES,
        help="Bound on the memory of contents seen, 16 bytes each. A small one finds fewer "
        "duplicates. [default: 1G]",
    ),
    click.option(
        "--max-cow-blocks",
        type=click.IntRange(min=0),
        metavar="N",
        help="Most blocks that cowdata may hold; past it, writes that need space answer ENOSPC.",
    ),
    click.option(
        "--max-metadata-size",
        type=size_type(1),
        metavar="BYTES",
        help="Greatest size of metadata.db; past it, writes that need space answer ENOSPC.",
    ),
    click.option(
        "--checksum-bits",
        type=_CHECKSUM_BITS,
        help="Verify every block that is read against what was written or first read there. May be "
        "switched on later. [default: 0 (off), or the store's]",
    ),
    click.option(
        "--retroactive",
        is_flag=True,
        help="When a written block is known, look whether the blocks written before it are known "
        "too.",
    ),
    click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground; log to stderr."),
    click.option(
        "--pid-file",
        type=absolute_path,
        metavar="PATH",
        help="File that holds the process's number while the mount runs; a second instance with it "
        "is refused.",
    ),
    click.option(
        "-R",
        "--read-only",
        is_flag=True,
        help="Refuse all writes and leave the store untouched.",
    ),
    click.option(
        "-r",
        "--read-only-upstream",
        is_flag=True,
        help="Never open upstream for writing: flushing is disabled.",
    ),
    click.option(
        "-o",
        "fuse_options",
        multiple=True,
        metavar="OPT",
        help="FUSE options such as allow_other; or direct_io to bypass the kernel's page cache. "
        "May be repeated.",
    ),
    click.option("--fsck", is_flag=True, help="Check the store before it is mounted."),
    click.option(
        "--temp-dir",
        type=absolute_path,
        metavar="DIR",
        help="Where large temporary data goes. [default: memory]",
    ),
    click.option("--force", is_flag=True, help="Go on although upstream has changed."),
    click.option(
        "--log-file",
        type=absolute_path,
        metavar="FILE",
        help="Log to this file. [default: the system's log, with -f stderr]",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Say more in the log."),
)


def mount_options(command: Command) -> Command:
    """Give a command the options that every way to mount has."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def store_options(chosen: dict[str, Any], data_dir: Path, **upstream: Any) -> StoreOptions:
    """Return what store is to be opened.

    Args:
        chosen: values of the options.
        data_dir: the data directory.
        upstream: what `StoreOptions` has to say about upstream.

    Raises:
        ConfigurationError: for `-o` with what is no option.
    """
    metadata_dir = chosen["metadata_dir"] or data_dir
    bits = chosen["checksum_bits"]
    return StoreOptions(
        data_dir=data_dir,
        metadata_dir=None if metadata_dir == IN_MEMORY else metadata_dir,
        block_size=chosen["block_size"],
        hash_table_bytes=chosen["hash_table_size"],
        max_cow_blocks=chosen["max_cow_blocks"],
        max_metadata_bytes=chosen["max_metadata_size"],
        checksum_bits=None if bits is None else int(bits),
        retroactive=chosen["retroactive"],
        read_only=chosen["read_only"] or parse_fuse_options(chosen["fuse_options"]).read_only,
        read_only_upstream=chosen["read_only_upstream"],
        force=chosen["force"],
        check=chosen["fsck"],
        temp_dir=chosen["temp_dir"],
        **upstream,
    )


def mount_settings(chosen: dict[str, Any], mount_point: Path) -> MountOptions:
    """Return how it is to be mounted.

    Raises:
        ConfigurationError: for `-o` with what is no option.
    """
    return MountOptions(
        mount_point=mount_point,
        fuse=parse_fuse_options(chosen["fuse_options"]),
        foreground=chosen["foreground"],
        pid_file=chosen["pid_file"],
        log_file=chosen["log_file"],
        verbose=chosen["verbose"],
    )
