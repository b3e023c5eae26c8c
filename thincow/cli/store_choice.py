"""The options of commands that look at a store, mounted or not, and the view that they choose."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thincow.cli.parameters import absolute_path

if TYPE_CHECKING:
    from thincow.engine.store_view import StoreView


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """The directories of a store that is not mounted; all None when a mount is meant."""

    data_dir: Path | None
    metadata_dir: Path | None
    upstream_dir: Path | None


def store_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name a store which is not mounted; they arrive as `choice`."""

    @wraps(command)
    def collect(
        data_dir: Path | None,
        metadata_dir: Path | None,
        upstream_dir: Path | None,
        **others: Any,
    ) -> None:
        command(choice=StoreChoice(data_dir, metadata_dir, upstream_dir), **others)

    wrapped: Callable[..., None] = collect
    for option in (
        click.option(
            "--upstream",
            "upstream_dir",
            type=absolute_path,
            metavar="DIR",
            help="The devices of a store that is not mounted.",
        ),
        click.option(
            "--metadata-dir",
            type=absolute_path,
            metavar="DIR",
            help="Directory of metadata.db; the data directory when not given.",
        ),
        click.option(
            "--data-dir",
            type=absolute_path,
            metavar="DIR",
            help="Directory of cowdata of a store that is not mounted, instead of MOUNTPOINT.",
        ),
    ):
        wrapped = option(wrapped)
    return wrapped


@contextmanager
def chosen_view(
    purpose: str, mount_point: Path | None, choice: StoreChoice, *, private: bool = False
) -> Iterator["StoreView"]:
    """Open the store that was chosen.

    Args:
        purpose: what the view is for, as a mount tells it.
        mount_point: of a mounted store.
        choice: of a store that is not mounted.
        private: whether the look may take long.

    Raises:
        click.UsageError: when not exactly one store is named.
        ThincowError: when it cannot be looked at.
    """
    if (mount_point is None) == (choice.data_dir is None):
        raise click.UsageError("Give either MOUNTPOINT or --data-dir.")
    if choice.data_dir is not None:
        from thincow.engine.store_view import open_offline_view

        places = (choice.data_dir, choice.metadata_dir, choice.upstream_dir)
        with open_offline_view(*places) as view:
            yield view
        return
    if choice.metadata_dir is not None or choice.upstream_dir is not None:
        raise click.UsageError("--metadata-dir and --upstream go with --data-dir.")
    from thincow.mount.live_view import open_live_view

    assert mount_point is not None
    with open_live_view(mount_point, purpose, private=private) as view:
        yield view
