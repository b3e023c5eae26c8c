"""Types of command line values: sizes in bytes and paths that survive a change of directory."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

IN_MEMORY: Final = "-"

_SIZE: Final = re.compile(r"(\d+)([KMGT]?)", re.ASCII)
_POWERS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def size_type(
    minimum: int = 0, maximum: int | None = None, *, power_of_two: bool = False
) -> Callable[[str], int]:
    """Make the type of an option that is a number of bytes; K, M, G, T are powers of 1024.

    Args:
        minimum: least value, in bytes.
        maximum: greatest value, in bytes; None for no bound.
        power_of_two: whether nothing else is accepted.
    """

    def size(text: str) -> int:
        match = _SIZE.fullmatch(str(text).strip().upper())
        if match is None:
            raise click.BadParameter(f"{text!r} is not a size: a number, or one with K, M, G or T")
        value = int(match[1]) << 10 * _POWERS[match[2]]
        if value < minimum:
            raise click.BadParameter(f"{text} is less than {minimum}")
        if maximum is not None and value > maximum:
            raise click.BadParameter(f"{text} is more than {maximum}")
        if power_of_two and value & (value - 1):
            raise click.BadParameter(f"{text} is not a power of two")
        return value

    return size


def named_size(text: str) -> tuple[str, int]:
    """Type of an option that is NAME=BYTES."""
    name, equals, size = str(text).partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not NAME=BYTES")
    return name, size_type()(size)


def absolute_path(text: str) -> Path:
    """Type of an option that is a path; what is there is for the command to find out."""
    if not text:
        raise click.BadParameter("the path is empty")
    return Path(text).absolute()


def path_or_memory(text: str) -> Path | str:
    """Type of an option that is a path, or `-` (returned as it is) for memory."""
    return text if text == IN_MEMORY else absolute_path(text)


pid_file_of_mount = click.option(
    "--pid-file",
    type=absolute_path,
    required=True,
    metavar="PATH",
    help="The file given to 'thincow mount' as --pid-file.",
)
"""The option of commands that find a mount by its pid file."""
