"""Whether the upstream devices are the ones that a store was made with.

Owns the decision (pure: `match_devices`, `judge`); the samples of contents that it rests on are
read by `thincow.engine.fingerprints`. It never writes: what is to be recorded is part of the
verdict.

A sample counts against a device only when an extent, identity included, refers to the block:
what was overwritten may differ. A sample that cannot be read counts neither way, since serving
failing disks is part of the job.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from thincow.block_types import MAX_DEVICE_ID, device_of, first_address
from thincow.engine.fingerprints import read_fingerprints, sample_blocks
from thincow.errors import ConfigurationError, UpstreamChangedError
from thincow.store.devices_table import DeviceRow
from thincow.store.disk import Disk
from thincow.store.upstream import Upstream, UpstreamFile

_ADVICE = "put upstream back as it was, or use --force to go on (what was not rewritten may differ)"


class DeviceState(StrEnum):
    """What became of a device since the store was last open."""

    NEW = "new"
    SAME = "same"
    CHANGED = "changed"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Match:
    """A device of the store and what was found under its name.

    `row` is how it is to be recorded from now on; `differences` say in words what changed.
    """

    row: DeviceRow
    state: DeviceState
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckedDevice:
    """The outcome for one device.

    `row` and `fingerprints` (hash by block address, all of the device) are what the store is to
    have from now on; `is_recorded` says that it has exactly that already.
    """

    row: DeviceRow
    state: DeviceState
    fingerprints: dict[int, int]
    is_recorded: bool


@dataclass(frozen=True, slots=True)
class UpstreamVerdict:
    """The outcome for all devices, in the order of their ids, and what to warn of."""

    devices: tuple[CheckedDevice, ...]
    warnings: tuple[str, ...]


def check_upstreams(
    rows: Sequence[DeviceRow],
    recorded: Mapping[int, int],
    upstreams: Sequence[Upstream],
    block_size: int,
    disk: Disk,
    is_referenced: Callable[[int], bool],
    force: bool,
    extra: Mapping[str, int] = MappingProxyType({}),
) -> UpstreamVerdict:
    """Compare the upstream devices with the ones that a store knows.

    Args:
        rows: the devices that the store knows, none for a new store.
        recorded: fingerprints in the store, hash by block address.
        upstreams: the devices of today, open.
        block_size: bytes in a block.
        disk: the seam to read samples through.
        is_referenced: whether a durable extent, identity included, refers to a block address;
            asked only for samples that differ.
        force: go on although something changed.
        extra: devices without upstream to make if they are not there, with their sizes in bytes.

    Raises:
        UpstreamChangedError: in one line what changed and what to do; never with `force`.
        ConfigurationError: when the store has had too many devices.
    """
    matches = match_devices(rows, [upstream.file for upstream in upstreams], extra)
    if not force:
        refuse_changes(matches)
    by_name = {upstream.file.name: upstream for upstream in upstreams}
    current: dict[int, int] = {}
    for match in matches:
        if match.state != DeviceState.MISSING and match.row.name in by_name:
            addresses = _addresses_to_read(match, recorded, block_size)
            upstream = by_name[match.row.name]
            current |= read_fingerprints(disk, upstream, addresses, block_size)
    matches, devices = judge(matches, recorded, current, block_size, is_referenced)
    if not force:
        refuse_changes(matches)
    return UpstreamVerdict(tuple(devices), tuple(_describe(m) for m in matches if m.differences))


def match_devices(
    rows: Sequence[DeviceRow],
    files: Sequence[UpstreamFile],
    extra: Mapping[str, int] = MappingProxyType({}),
) -> list[Match]:
    """Pair the devices of a store with what was found, by name; new ones get the next free ids.

    Ids are never used again, so that addresses in the store keep their meaning. `extra` as in
    `check_upstreams`.

    Raises:
        ConfigurationError: when no id is left, or an extra device has the name of another one.
    """
    by_name = {file.name: file for file in files}
    known = {row.name for row in rows}
    matches = []
    for row in sorted(rows, key=lambda row: row.id):
        file = by_name.get(row.name)
        if row.type != "none" and row.name in extra:
            raise ConfigurationError(f"{row.name} is an upstream device: give --size another name")
        if file is None and row.type == "none":
            matches.append(Match(row, DeviceState.SAME))
        elif file is None:
            matches.append(Match(row, DeviceState.MISSING, ("is missing",)))
        else:
            differences = _compare(row, file)
            state = DeviceState.CHANGED if differences else DeviceState.SAME
            matches.append(Match(_seen_again(row, file), state, differences))
    next_id = max((row.id for row in rows), default=0) + 1
    new = [_row_of(0, file) for file in files]
    new += [DeviceRow(0, name, 0, "none", None, None, size) for name, size in extra.items()]
    for row in new:
        if row.name not in known:
            if next_id > MAX_DEVICE_ID:
                raise ConfigurationError(f"no room for another device: {row.name}")
            matches.append(Match(replace(row, id=next_id), DeviceState.NEW))
            next_id += 1
    return matches


def judge(
    matches: Sequence[Match],
    recorded: Mapping[int, int],
    current: Mapping[int, int],
    block_size: int,
    is_referenced: Callable[[int], bool],
) -> tuple[list[Match], list[CheckedDevice]]:
    """Compare fingerprints, and say what is to be recorded.

    Args:
        matches: what `match_devices` returned.
        recorded: fingerprints in the store, hash by block address.
        current: fingerprints of today, as far as blocks could be read.
        block_size: bytes in a block.
        is_referenced: see `check_upstreams`.

    Returns:
        The matches again, with devices of changed content marked, and the outcome of each.
    """
    recorded_of = _by_device(recorded)
    current_of = _by_device(current)
    judged = []
    devices = []
    for match in matches:
        before = recorded_of.get(match.row.id, {})
        now = current_of.get(match.row.id, {})
        outcome = match
        if match.state == DeviceState.SAME:
            differing = [a for a, value in before.items() if now.get(a, value) != value]
            referenced = [address for address in differing if is_referenced(address)]
            if referenced:
                difference = _describe_contents(referenced, block_size)
                outcome = replace(match, state=DeviceState.CHANGED, differences=(difference,))
        judged.append(outcome)
        if outcome.state == DeviceState.MISSING:
            now = before
        elif outcome.state == DeviceState.SAME:
            # Unreferenced blocks that differ are recorded anew: they may be referred to again.
            end = first_address(outcome.row.id) + outcome.row.upstream_blocks(block_size)
            now = {block: value for block, value in (before | now).items() if block < end}
        is_kept = outcome.state in (DeviceState.SAME, DeviceState.MISSING)
        is_recorded = is_kept and now == before
        row = outcome.row.normal(block_size)
        devices.append(CheckedDevice(row, outcome.state, now, is_recorded))
    return judged, devices


def refuse_changes(matches: Iterable[Match]) -> None:
    """Refuse devices that changed or are missing.

    Raises:
        UpstreamChangedError: in one line what changed and what to do.
    """
    changes = [_describe(match) for match in matches if match.differences]
    if changes:
        more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
        raise UpstreamChangedError(f"{'; '.join(changes[:3])}{more}: {_ADVICE}")


def _addresses_to_read(match: Match, recorded: Mapping[int, int], block_size: int) -> set[int]:
    samples = set(_samples_of(match.row, block_size))
    if match.state == DeviceState.SAME:
        samples.update(address for address in recorded if device_of(address) == match.row.id)
    return samples


def _by_device(fingerprints: Mapping[int, int]) -> dict[int, dict[int, int]]:
    grouped: dict[int, dict[int, int]] = {}
    for address, fingerprint in fingerprints.items():
        grouped.setdefault(device_of(address), {})[address] = fingerprint
    return grouped


def _samples_of(row: DeviceRow, block_size: int) -> list[int]:
    return sample_blocks(first_address(row.id), row.upstream_blocks(block_size))


def _compare(row: DeviceRow, file: UpstreamFile) -> tuple[str, ...]:
    if row.type != file.type:
        words = {
            "file": "a regular file",
            "block": "a block device",
            "none": "a device without upstream",
        }
        return (f"was {words[row.type]} and is {words[file.type]}",)
    differences = []
    if file.size_bytes not in (row.size_bytes, row.flush_bytes):
        differences.append(f"had {row.size_bytes} bytes and has {file.size_bytes}")
    if row.inode != file.inode:
        differences.append(f"is another file (inode {file.inode}, was {row.inode})")
    elif row.mtime_ns is not None and file.mtime_ns is not None and row.mtime_ns != file.mtime_ns:
        seconds = (file.mtime_ns - row.mtime_ns) / 1e9
        when = f"{abs(seconds):.3f} s {'later' if seconds > 0 else 'earlier'}"
        differences.append(f"was written to (its modification time is {when} than recorded)")
    return tuple(differences)


def _row_of(device: int, file: UpstreamFile) -> DeviceRow:
    return DeviceRow(
        id=device,
        name=file.name,
        size_bytes=file.size_bytes,
        type=file.type,
        inode=file.inode,
        mtime_ns=file.mtime_ns,
    )


def _seen_again(row: DeviceRow, file: UpstreamFile) -> DeviceRow:
    """Return the row of a device with what was found of its upstream."""
    size_bytes = file.size_bytes
    if row.type == "none":
        row = replace(row, virtual_bytes=row.seen_bytes, shown_blocks=0)
    elif size_bytes == row.flush_bytes:
        # Both sizes stay possible until a flush has proved one: a sync of the new one may have
        # failed, and a power cut brings the old one back then.
        size_bytes = row.size_bytes
    return replace(
        row,
        size_bytes=size_bytes,
        type=file.type,
        inode=file.inode,
        mtime_ns=file.mtime_ns,
    )


def _describe(match: Match) -> str:
    return f"upstream device {match.row.name} {', '.join(match.differences)}"


def _describe_contents(addresses: Sequence[int], block_size: int) -> str:
    first = min(addresses)
    offset = (first - first_address(device_of(first))) * block_size
    more = f" and in {len(addresses) - 1} more samples" if len(addresses) > 1 else ""
    return f"has other contents (at byte {offset}{more})"
