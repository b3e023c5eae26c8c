"""One commit of a store to look at, mounted or not, and its contents.

Nothing is written. What the view refers to stays as it is while `require_valid` does not complain:
of a store that nobody serves, because its directories are locked; of a mounted one, because the
mount holds it (see `thincow.mount.live_view`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from thincow.block_types import DEVICE_SHIFT
from thincow.engine import header_check
from thincow.engine.findings import Findings
from thincow.engine.flush_source import Source
from thincow.engine.header_check import Header
from thincow.errors import ConfigurationError, CorruptStoreError, NoStoreError
from thincow.store.backup_mark import refuse_incomplete
from thincow.store.cow_file import COW_NAME
from thincow.store.database import DATABASE_NAME
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.label import read_label
from thincow.store.locks import lock_directories
from thincow.store.snapshot import Snapshot
from thincow.store.upstream import Upstream, scan_place


@dataclass(frozen=True, slots=True)
class StoreView:
    """One commit of a store.

    `upstream_dir` is None when it is not known. `require_valid` raises `ThincowError` when contents
    may have been overwritten since the view was taken.
    """

    snapshot: Snapshot
    data_dir: Path
    metadata_dir: Path
    upstream_dir: Path | None
    require_valid: Callable[[], None] = lambda: None

    def header(self) -> Header:
        """Return the facts about the store.

        Raises:
            CorruptStoreError: when they are not sane.
        """
        findings = Findings()
        header = None
        is_ours = header_check.check_version(self.snapshot, findings)
        if is_ours and header_check.check_schema(self.snapshot, findings):
            header = header_check.check_header(self.snapshot, findings)
        if header is None:
            first = findings.report().findings[0]
            raise CorruptStoreError(
                f"the store in {self.data_dir} is damaged ({first.place}: {first.message}): "
                "run 'thincow fsck'"
            )
        return header


@contextmanager
def open_offline_view(
    data_dir: Path, metadata_dir: Path | None = None, upstream_dir: Path | None = None
) -> Iterator[StoreView]:
    """Look at a store that is not mounted for writing.

    Raises:
        NoStoreError: when there is none.
        StoreInUseError: when it is mounted; names the pid.
        ConfigurationError: when it is an unfinished backup, or cannot be opened.
        CorruptStoreError: when it cannot be read, or its halves do not belong together.
    """
    metadata_dir = metadata_dir or data_dir
    for directory in (data_dir, metadata_dir):
        if not directory.is_dir():
            raise NoStoreError(f"there is no directory {directory}")
    with ExitStack() as stack:
        for lock in lock_directories([data_dir, metadata_dir], exclusive=False):
            stack.callback(lock.release)
        refuse_incomplete(data_dir)
        for path in (data_dir / COW_NAME, metadata_dir / DATABASE_NAME):
            if not path.is_file():
                raise NoStoreError(f"there is no store in {path.parent}: {path.name} is missing")
        try:
            snapshot = stack.enter_context(Snapshot.open_offline(metadata_dir / DATABASE_NAME))
        except OSError as error:
            raise ConfigurationError(f"{metadata_dir} cannot be read: {error.strerror}") from error
        view = StoreView(snapshot, data_dir, metadata_dir, upstream_dir)
        _require_halves_match(view)
        yield view


@contextmanager
def open_source(disk: Disk, view: StoreView, header: Header) -> Iterator[Source]:
    """Open what the contents of a view can be read from; upstream only where it is known.

    Raises:
        ConfigurationError: when the upstream directory or `cowdata` cannot be used.
    """
    with ExitStack() as stack:
        upstreams = {}
        ids = {device.name: device.id for device in header.devices}
        for file in scan_place(view.upstream_dir, disk) if view.upstream_dir is not None else ():
            if file.name in ids:
                upstream = Upstream(disk, file)
                stack.callback(upstream.close)
                number = ids[file.name]
                upstreams[number] = (upstream.fd, number << DEVICE_SHIFT, upstream.size_bytes)
        try:
            cow_fd = disk.open(view.data_dir / COW_NAME, os.O_RDONLY)
        except OSError as error:
            path = view.data_dir / COW_NAME
            raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
        stack.callback(disk.close, cow_fd)
        yield Source(disk, cow_fd, upstreams, header.block_size)


def choose_devices(header: Header, names: Sequence[str]) -> list[DeviceRow]:
    """Return the devices of these names, without any all.

    Raises:
        ConfigurationError: when the store knows no such device.
    """
    known = {device.name: device for device in header.devices}
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"the store has no device {name}; it has {', '.join(sorted(known)) or 'none'}"
            )
    return [device for device in header.devices if not names or device.name in names]


def _require_halves_match(view: StoreView) -> None:
    try:
        label = read_label(Disk(), view.data_dir)
    except OSError as error:
        raise ConfigurationError(f"{view.data_dir} cannot be read: {error.strerror}") from error
    findings = Findings()
    header_check.check_label(label, view.header(), findings)
    for finding in findings.report().findings:
        raise CorruptStoreError(f"{finding.place} {finding.message}: run 'thincow fsck'")
