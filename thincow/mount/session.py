"""The life of one mount: opens the store, mounts, serves, ends in order.

The order of the end is part of the promise: first no more requests come (unmounted), then the
requests under way are answered, then the store is committed and closed, then the pid file goes,
then the process. Whoever waits for the process finds a closed store.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from thincow.engine.engine import Engine, open_engine
from thincow.engine.options import StoreOptions
from thincow.errors import ConfigurationError, ThincowError
from thincow.mount.end_signals import EndSignals
from thincow.mount.fuse_server import FuseServer
from thincow.mount.mount_point import check_mount_point, recover_stale
from thincow.mount.options import MountOptions, check_fuse_available
from thincow.mount.overlay import check_overlay, discard, finish_discarding
from thincow.mount.pid_file import hold_pid_file
from thincow.mount.virtual_file import make_virtual_file, remove_virtual_file
from thincow.store.disk import Disk
from thincow.store.overlay_record import OverlayRecord, read_record, write_record

_log = logging.getLogger(__name__)

_SWITCH_INTERVAL_S: Final = 0.0002
"""How long a thread that commits may have to wait for the interpreter; the default of 5 ms after
every SQLite call would slow commits down a hundredfold."""


def serve(store: StoreOptions, options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount a store and serve it until it is unmounted or a signal ends it.

    Args:
        store: what to open; all paths are absolute.
        options: where to mount it.
        ready: called once, when the mount can be used.

    Raises:
        ThincowError: when it cannot be mounted, or the last changes could not be saved.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    check_fuse_available()
    if options.original is not None:
        check_overlay(store, options)
        finish_discarding(store)
    else:
        check_mount_point(options.mount_point, _places_in_use(store, options))
    with hold_pid_file(options.pid_file) as pid_file:
        engine = open_engine(store)
        with EndSignals() as signals:
            made_file = False
            try:
                if recover_stale(options.mount_point):
                    _log.warning(
                        "%s was left mounted by a thincow that died; recovered it",
                        options.mount_point,
                    )
                if options.original is not None:
                    made_file = make_virtual_file(options.mount_point)
                    _note_overlay(store, options, made_file=made_file)
                if pid_file is not None:
                    pid_file.write()
                FuseServer(engine, options, signals, ready).run()
            except BaseException:
                _close_after_failure(engine)
                if made_file:
                    remove_virtual_file(options.mount_point.resolve())
                raise
            engine.close()
            if options.is_temporary:
                discard(store.data_dir, store.metadata_dir or store.data_dir)
            elif made_file and store.metadata_dir is None:
                remove_virtual_file(options.mount_point.resolve())
    _log.info("%s: unmounted and closed", options.mount_point)


def _note_overlay(store: StoreOptions, options: MountOptions, *, made_file: bool) -> None:
    """Note in a store that lasts what it is an overlay of."""
    assert options.original is not None
    if store.read_only or store.metadata_dir is None:
        return
    place = options.mount_point.resolve()
    disk = Disk()
    before = read_record(disk, store.data_dir)
    was_made = before is not None and before.virtual == place and before.made_virtual
    record = OverlayRecord(options.original.resolve(), place, made_file or was_made)
    if record != before:
        try:
            write_record(disk, store.data_dir, record)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write to {store.data_dir}: {error.strerror}"
            ) from error


def _places_in_use(store: StoreOptions, options: MountOptions) -> list[tuple[str, Path]]:
    """Return what a mount would hide, or would lie in."""
    places = {
        "upstream directory": store.upstream_dir,
        "data directory": store.data_dir,
        "metadata directory": store.metadata_dir,
        "temporary directory": store.temp_dir,
        "pid file": options.pid_file,
        "log file": options.log_file,
    }
    return [(what, path) for what, path in places.items() if path is not None]


def _close_after_failure(engine: Engine) -> None:
    try:
        engine.close()
    except ThincowError as error:
        _log.error("closing the store: %s", error)
