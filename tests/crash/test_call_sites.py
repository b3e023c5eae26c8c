"""Every call that the program makes to disk fails once, with EIO and with ENOSPC."""

import errno
import inspect
import logging
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import apsw
import pytest

from tests.crash.failing import EXEMPT, NOT_SERVED, Fault, Site, seam_methods, vfs_methods
from tests.crash.service import Service, root_of
from tests.crash.setting import MEMORY, Setting, patched
from thincow.engine import committer
from thincow.store import upstream_writer
from thincow.store.disk import Disk

CALLS_PER_SITE = 6
"""So many calls, spread over all of a site, are made to fail in turn."""


def serve(fault: Fault) -> Service:
    with tempfile.TemporaryDirectory(prefix="call-sites-", dir=MEMORY) as root:
        return serve_at(Path(root), fault)


def serve_at(root: Path, fault: Fault) -> Service:
    setting = Setting.random(1, root)
    tuning = replace(setting.options.tuning, window_blocks=4, checkpoint_wal_bytes=0)
    options = replace(
        setting.options,
        metadata_dir=root / "metadata",
        hash_table_bytes=4096,
        max_cow_blocks=None,
        checksum_bits=64,
        tuning=tuning,
    )
    setting = replace(
        setting, directories=(), options=options, punch_after_bytes=0, punch_grain_bytes=512
    )
    root_of(setting)
    service = Service(setting, fault)
    often = patched(upstream_writer, "_WRITEBACK_BYTES", 1024)
    with setting.applied(), often, patched(committer, "_RETRY_S", 0.0):
        service.run()
    return service


@pytest.fixture(scope="module")
def calls() -> Counter[Site]:
    """How often each site is called when nothing fails."""
    fault = Fault()
    service = serve(fault)
    assert service.errors == []
    return fault.calls


def chosen_calls(count: int) -> list[int]:
    """Return numbers of calls, the first and the last among them."""
    if count <= CALLS_PER_SITE:
        return list(range(1, count + 1))
    return sorted({1 + (count - 1) * n // (CALLS_PER_SITE - 1) for n in range(CALLS_PER_SITE)})


def test_every_method_of_the_seam_is_reached(calls):
    reached = {method for method, _ in calls}
    assert set(seam_methods()) - reached == set()
    targets = {target for _, target in calls}
    assert {"cowdata", "cowdata.id", "upstream", "directory", "metadata.db"} <= targets


def test_every_method_of_the_vfs_is_reached_or_exempt(calls):
    reached = {method for method, _ in calls}
    known = {*vfs_methods(apsw.VFS), *vfs_methods(apsw.VFSFile)}
    assert known - reached == set()
    everything = {name for owner in (apsw.VFS, apsw.VFSFile) for name in dir(owner)}
    assert {name for name in EXEMPT if name not in everything} == set()


def test_seam_has_no_calls_that_are_not_methods():
    public = {name for name in vars(Disk) if not name.startswith("_")} - {"sqlite_vfs"}
    assert public == {*seam_methods(), *NOT_SERVED}
    assert all(inspect.isfunction(getattr(Disk, name)) for name in public)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
def test_service_goes_on_after_a_failure_at_any_call(calls, code):
    logging.disable()
    failures = []
    runs = 0
    for site, count in sorted(calls.items()):
        for number in chosen_calls(count):
            fault = Fault(site, number, code)
            runs += 1
            try:
                serve(fault)
            except Exception as error:  # noqa: BLE001 - all of them are reported together
                failures.append(f"{site} call {number}: {type(error).__name__}: {error}")
    logging.disable(logging.NOTSET)
    print(f"{len(calls)} sites, {runs} calls made to fail")
    assert not failures, "\n".join(failures)
