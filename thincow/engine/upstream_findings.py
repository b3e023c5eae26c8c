"""What a check finds about upstream: whether it is what the store was made with."""

from contextlib import ExitStack, closing
from pathlib import Path

from thincow.block_types import device_of, first_address
from thincow.engine.findings import Code, Findings
from thincow.engine.header_check import Header
from thincow.engine.open_identity import as_far_as_known
from thincow.engine.store_view import StoreView
from thincow.engine.upstream_check import DeviceState, check_upstreams
from thincow.errors import ConfigurationError, CorruptStoreError, UpstreamChangedError
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.snapshot import Snapshot
from thincow.store.upstream import Upstream, scan_place


def check_recorded_upstream(
    directory: Path, snapshot: Snapshot, header: Header, findings: Findings
) -> None:
    """Compare the devices in the upstream directory with those that the store knows.

    Args:
        directory: where the devices are.
        snapshot: of the store.
        header: its header, which was found sane.
        findings: takes what is wrong.
    """
    disk = Disk()
    try:
        with ExitStack() as stack:
            files = scan_place(directory, disk)
            upstreams = [stack.enter_context(closing(Upstream(disk, file))) for file in files]
            marks = [
                (first, length)
                for chunk in snapshot.flushing()
                for first, length in zip(*(column.tolist() for column in chunk), strict=True)
            ]
            own_ends = {
                row.id: first_address(row.id) + row.own_blocks(header.block_size)
                for row in header.devices
            }
            verdict = check_upstreams(
                *as_far_as_known(header.devices, snapshot.fingerprints_by_block(), marks),
                upstreams,
                header.block_size,
                disk,
                lambda address: snapshot.is_referenced(
                    address, header.window_blocks, own_ends[device_of(address)]
                ),
                force=True,
            )
    except (ConfigurationError, CorruptStoreError, OSError) as error:
        findings.add(
            Code.UPSTREAM_UNUSABLE, str(directory), getattr(error, "strerror", None) or str(error)
        )
        return
    other = (DeviceState.MISSING, DeviceState.CHANGED)
    different = [device for device in verdict.devices if device.state in other]
    for device, warning in zip(different, verdict.warnings, strict=True):
        missing = device.state == DeviceState.MISSING
        code = Code.UPSTREAM_MISSING if missing else Code.UPSTREAM_CHANGED
        findings.add(code, f"device {device.row.name}", warning)


def require_recorded_upstream(directory: Path, snapshot: Snapshot, header: Header) -> None:
    """Check that upstream is what the store was made with.

    Raises:
        UpstreamChangedError: when it is not, as far as the fingerprints show.
    """
    findings = Findings()
    check_recorded_upstream(directory, snapshot, header, findings)
    for finding in findings.report().findings:
        raise UpstreamChangedError(f"{finding.place}: {finding.message}")


def require_valid_base(base: StoreView, base_header: Header, now: Header) -> None:
    """Check that a backup may be compared with: that it relies on upstream as it is now.

    Args:
        base: the backup.
        base_header: its header.
        now: header of the store, which tells of upstream where that itself cannot be seen.

    Raises:
        UpstreamChangedError: when it does not, as far as sizes, times and fingerprints show.
    """
    if base.upstream_dir is None:
        recorded = {row.id: _recorded(row) for row in now.devices}
        changed = [r for r in base_header.devices if recorded.get(r.id) != _recorded(r)]
        reason = f"device {changed[0].name}: is recorded otherwise now" if changed else ""
    else:
        findings = Findings()
        check_recorded_upstream(base.upstream_dir, base.snapshot, base_header, findings)
        reason = "".join(f"{f.place}: {f.message}" for f in findings.report().findings[:1])
    if reason:
        raise UpstreamChangedError(
            f"{base.data_dir} is not valid any more: upstream changed after it was made, by a "
            f"flush perhaps ({reason}): compare with a newer backup"
        )


def _recorded(row: DeviceRow) -> tuple[str, int, int | None, int | None]:
    return row.type, row.size_bytes, row.inode, row.mtime_ns
