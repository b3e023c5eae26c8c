"""What `thincow diff` shows. Ranges are printed as they are found: there may be millions."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import click

from thincow.engine.diff import Change, ChangeKind, State, find_changes, size_before
from thincow.engine.header_check import Header
from thincow.store.devices_table import DeviceRow

_LINES_AT_ONCE: Final = 4096


@dataclass(slots=True)
class Sums:
    """What the changes of a device come to, in bytes."""

    size: int
    size_before: int
    ranges: int = 0
    by_kind: dict[ChangeKind, int] = field(default_factory=lambda: dict.fromkeys(ChangeKind, 0))

    def counted(self, changes: Iterable[Change]) -> Iterator[Change]:
        """Pass changes on, and count them."""
        for change in changes:
            self.ranges += 1
            self.by_kind[change.kind] += change.length
            yield change

    @property
    def changed(self) -> int:
        """Bytes that changed."""
        return sum(self.by_kind.values())

    @property
    def percent(self) -> float:
        """Part of the device that changed."""
        return 100 * self.changed / self.size if self.size else 0.0


def print_text(
    header: Header,
    devices: list[DeviceRow],
    after: State,
    before: State | None,
    *,
    with_ranges: bool,
) -> None:
    """Print ranges, and a line with the sums of each device."""
    names = {device.id: device.name for device in header.devices}
    for device in devices:
        sums = Sums(device.seen_bytes, size_before(device, before))
        found = sums.counted(find_changes(device, header.block_size, after, before))
        for lines in _batches(_line(device.name, change, names) for change in found):
            if with_ranges:
                click.echo("\n".join(lines))
        click.echo(_summary(device.name, sums))


def print_json(
    header: Header,
    devices: list[DeviceRow],
    after: State,
    before: State | None,
    *,
    with_ranges: bool,
) -> None:
    """Print one JSON object, device by device."""
    names = {device.id: device.name for device in header.devices}
    click.echo(f'{{"block_size": {header.block_size}, "devices": [')
    for index, device in enumerate(devices):
        sums = Sums(device.seen_bytes, size_before(device, before))
        found = sums.counted(find_changes(device, header.block_size, after, before))
        click.echo(f'{{"name": {json.dumps(device.name)}, "ranges": [')
        comma = ""
        for lines in _batches(json.dumps(_object(change, names)) for change in found):
            if with_ranges:
                click.echo(comma + ",\n".join(lines))
                comma = ","
        totals = {
            "size_bytes": sums.size,
            "size_before_bytes": sums.size_before,
            "changed_bytes": sums.changed,
            "changed_percent": round(sums.percent, 4),
            "range_count": sums.ranges,
            **{f"{kind}_bytes": number for kind, number in sums.by_kind.items()},
        }
        end = "," if index + 1 < len(devices) else ""
        click.echo(f"], {json.dumps(totals)[1:]}{end}")
    click.echo("]}")


def _line(device: str, change: Change, names: dict[int, str]) -> str:
    line = f"{device}\t{change.offset}\t{change.length}\t{change.kind}"
    if change.source_device is None:
        return line
    return f"{line}\t{names.get(change.source_device, '?')}\t{change.source_offset}"


def _object(change: Change, names: dict[int, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "offset_bytes": change.offset,
        "length_bytes": change.length,
        "kind": change.kind,
    }
    if change.source_device is not None:
        found["source_device"] = names.get(change.source_device, "?")
        found["source_offset_bytes"] = change.source_offset
    return found


def _summary(device: str, sums: Sums) -> str:
    if sums.size != sums.size_before:
        device += f" (had {sums.size_before} bytes, has {sums.size})"
    elif not sums.ranges:
        return f"{device}: unchanged"
    if not sums.ranges:
        return f"{device}: nothing else changed"
    kinds = ", ".join(f"{kind} {number}" for kind, number in sums.by_kind.items() if number)
    return (
        f"{device}: {sums.changed} of {sums.size} bytes changed ({sums.percent:.2f} %) "
        f"in {sums.ranges} ranges: {kinds}"
    )


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if len(batch) == _LINES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
