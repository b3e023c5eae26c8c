"""Checks what must be right before the big tables can be looked at.

Owns the file's header, the schema, the tables `globals` and `devices`, and the label of the data
directory. Finds everything that is wrong; opening a store stops at the first thing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from thincow.block_types import (
    MAX_BLOCK_SIZE,
    MAX_DEVICE_BLOCKS,
    MAX_DEVICE_ID,
    MIN_BLOCK_SIZE,
)
from thincow.engine.findings import Code, Findings
from thincow.engine.options import CHECKSUM_WIDTHS
from thincow.store.columns import SQLValue
from thincow.store.connection import APPLICATION_ID
from thincow.store.database import expected_schema
from thincow.store.devices_table import TYPES, DeviceRow, has_sane_values, is_device_name
from thincow.store.label import LABEL_NAME, Label
from thincow.store.snapshot import Snapshot
from thincow.store.sql_files import schema_version

_MAX_WINDOW_BLOCKS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """What later checks rest on; every value was found sane."""

    store_id: str
    block_size: int
    window_blocks: int
    generation: int
    hash_entries: int
    checksum_bits: int
    devices: list[DeviceRow]


def check_version(snapshot: Snapshot, findings: Findings) -> bool:
    """Check that this is a database of thincow, of the version that this program knows."""
    if snapshot.application_id() != APPLICATION_ID:
        found = f"application id {snapshot.application_id():#x} is not thincow's"
        findings.add(Code.DATABASE_FOREIGN, "metadata.db", found)
        return False
    version = snapshot.user_version()
    if version != schema_version():
        found = f"has schema version {version}, this program knows {schema_version()}"
        if 0 < version < schema_version():
            found += ": mount it once for writing to bring it up to date"
        findings.add(Code.DATABASE_VERSION, "metadata.db", found)
        return False
    return True


def check_schema(snapshot: Snapshot, findings: Findings) -> bool:
    """Check that the schema is the shipped one; return whether the tables can be trusted.

    SQLite itself runs what a schema says, so a foreign one is not used for anything more.
    """
    expected = {(kind, name): (table, sql) for kind, name, table, sql in expected_schema()}
    present = {(kind, name): (table, sql) for kind, name, table, sql in snapshot.schema()}
    for kind, name in sorted(expected.keys() | present.keys()):
        if (kind, name) not in present:
            findings.add(Code.SCHEMA_DIFFERS, f"{kind} {name}", "is missing")
        elif (kind, name) not in expected:
            findings.add(Code.SCHEMA_DIFFERS, f"{kind} {name}", "does not belong here")
        elif present[kind, name] != expected[kind, name]:
            findings.add(Code.SCHEMA_DIFFERS, f"{kind} {name}", "is not the one of this version")
    return expected == present


def check_header(snapshot: Snapshot, findings: Findings) -> Header | None:
    """Check the tables `globals` and `devices`; return them when all of it is sane."""
    values = snapshot.globals()
    sane = True
    for key, (is_sane, meaning) in _GLOBALS.items():
        if key not in values:
            findings.add(Code.GLOBAL_MISSING, f"globals.{key}", f"is missing; it is {meaning}")
            sane = False
        elif not is_sane(values[key]):
            message = f"is {values[key]!r}, not {meaning}"
            findings.add(Code.GLOBAL_VALUE, f"globals.{key}", message)
            sane = False
    if not sane:
        return None
    block_size = _integer(values["block_size"])
    devices = snapshot.devices()
    findings.count("devices", len(devices))
    for row in devices:
        problem = device_problem(row, block_size)
        if problem is not None:
            findings.add(Code.DEVICE_VALUE, f"devices.id {row.id}", problem)
            sane = False
    if not sane:
        return None
    return Header(
        store_id=str(values["store_id"]),
        block_size=block_size,
        window_blocks=_integer(values["window_blocks"]),
        generation=_integer(values["generation"]),
        hash_entries=_integer(values["hash_entries"]),
        checksum_bits=_integer(values["checksum_bits"]),
        devices=devices,
    )


def sane_globals(snapshot: Snapshot) -> dict[str, SQLValue]:
    """Return those rows of the table `globals` that can be right."""
    values = snapshot.globals()
    return {
        key: values[key]
        for key, (is_sane, _) in _GLOBALS.items()
        if key in values and is_sane(values[key])
    }


def check_label(label: Label | None, header: Header, findings: Findings) -> None:
    """Check that the contents in the data directory belong to this database."""
    if label is None:
        findings.add(Code.LABEL_MISSING, LABEL_NAME, "is missing: cowdata may be another store's")
    elif label.store_id != header.store_id:
        message = f"is of store {label.store_id}, the metadata are of store {header.store_id}"
        findings.add(Code.LABEL_STORE, LABEL_NAME, message)
    elif label.generation > header.generation:
        message = f"is of commit {label.generation}, but the metadata end at {header.generation}"
        findings.add(Code.LABEL_GENERATION, LABEL_NAME, message)


def _integer(value: SQLValue) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no integer")  # its check has said that it is
    return value


def _between(low: int, high: int) -> Callable[[SQLValue], bool]:
    return lambda value: isinstance(value, int) and low <= value <= high


def _power_of_two(low: int, high: int) -> Callable[[SQLValue], bool]:
    return lambda value: (
        isinstance(value, int) and low <= value <= high and value & (value - 1) == 0
    )


def _is_store_id(value: SQLValue) -> bool:
    return isinstance(value, str) and len(value) == 32 and set(value) <= set("0123456789abcdef")


_GLOBALS: Final[dict[str, tuple[Callable[[SQLValue], bool], str]]] = {
    "store_id": (_is_store_id, "32 hexadecimal digits"),
    "block_size": (_power_of_two(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE), "a power of two in range"),
    "window_blocks": (_power_of_two(1, _MAX_WINDOW_BLOCKS), "a power of two in range"),
    "generation": (_between(0, 1 << 62), "the number of a commit"),
    "clean": (_between(0, 1), "0 or 1"),
    "hash_entries": (_between(0, 1 << 62), "a number of rows"),
    "checksum_bits": (lambda value: value in CHECKSUM_WIDTHS, "0, 8, 16, 32 or 64"),
}


def device_problem(row: DeviceRow, block_size: int) -> str | None:
    """Return what is wrong with a device in words; None when all is well."""
    if not 1 <= row.id <= MAX_DEVICE_ID:
        return "id is out of range"
    if not is_device_name(row.name):
        return f"name {row.name!r} cannot be a file's"
    if row.type not in TYPES:
        return f"unknown type {row.type!r}"
    for size_bytes in (row.size_bytes, row.seen_bytes, row.flush_bytes or 0):
        if not 0 <= size_bytes <= MAX_DEVICE_BLOCKS * block_size:
            return f"size of {size_bytes} bytes is out of range"
    if not has_sane_values(row):
        return "a value is out of range"
    return None
