"""Starting a mount in the foreground or the background. Imports nothing heavy before the fork."""

import logging
from collections.abc import Callable

from thincow.engine.options import StoreOptions
from thincow.errors import ThincowError
from thincow.mount.daemon import run_detached
from thincow.mount.logging_setup import set_up_logging
from thincow.mount.options import MountOptions

_log = logging.getLogger()


def start_mount(store: StoreOptions, options: MountOptions) -> int:
    """Mount a store; return the exit status for the command.

    In the foreground this returns when the mount has ended, else when it is ready for use.

    Raises:
        ThincowError: in the foreground, when it cannot be mounted or closed properly.
    """

    def serve(ready: Callable[[], None]) -> None:
        terminal = set_up_logging(options)

        def detached() -> None:
            if not options.foreground:
                _log.removeHandler(terminal)
            ready()

        # The numerics library starts threads when it is imported: only after the fork.
        from thincow.mount import session

        try:
            session.serve(store, options, detached)
        except BaseException as error:
            _log.removeHandler(terminal)  # the command itself tells the terminal
            _log.error("%s", error, exc_info=not isinstance(error, ThincowError))
            raise

    if options.foreground:
        serve(lambda: None)
        return 0
    return run_detached(serve, verbose=options.verbose)
