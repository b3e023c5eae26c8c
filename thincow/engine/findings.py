"""What a check reports: findings with stable codes, and what a repair would do about each.

Owns the codes (they are part of the user interface: scripts look for them) and the collector that
keeps a badly broken store from filling the memory: every finding is counted, but of each code only
the first ones are kept with their text.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

KEPT_PER_CODE: Final = 50


class Repair(StrEnum):
    """What a repair would do about a finding; the value is the text that users see."""

    NONE = "nothing: restore it from a backup"
    USE_MATCHING = "nothing: use a thincow that knows this version"
    GIVE_UPSTREAM = "nothing: give back the upstream that the store was made with"
    SALVAGE = "copy what is readable into a new database"
    RELABEL = "write the label anew, when the contents fit"
    DROP_EXTENT = "drop the extent: its blocks show their own upstream content again"
    SPLIT_EXTENT = "write the same extent in another form"
    RECOUNT = "count the references anew"
    DROP_HASHES = "drop hash entries: they are hints and come back with use"
    DROP_CHECKSUMS = "drop the row: its blocks are unchecked until they are read or written again"
    FORGET_CHECKSUM = "drop the checksum: the block can be read as it is; the range is listed"
    DROP_ENTRY = "drop the hash entry; the range is listed when it is not upstream's"
    OLDER_MAP = "go on from these older metadata: what was written later is lost"
    KEEP_ON_DEVICE = "keep the part that lies on a device"
    TAKE_AS_IT_IS = "drop the mark: upstream is shown as it is; the range is listed"
    DROP_FINGERPRINT = "drop the row: the block is no longer compared when the store is opened"


class Code(StrEnum):
    """What is wrong. Names never change and are never used again for something else."""

    METADATA_MISSING = "METADATA_MISSING"
    COWDATA_MISSING = "COWDATA_MISSING"
    FILE_TYPE = "FILE_TYPE"
    LABEL_MISSING = "LABEL_MISSING"
    LABEL_DAMAGED = "LABEL_DAMAGED"
    LABEL_STORE = "LABEL_STORE"
    LABEL_GENERATION = "LABEL_GENERATION"
    DATABASE_UNREADABLE = "DATABASE_UNREADABLE"
    DATABASE_FOREIGN = "DATABASE_FOREIGN"
    DATABASE_VERSION = "DATABASE_VERSION"
    DATABASE_DAMAGED = "DATABASE_DAMAGED"
    SCHEMA_DIFFERS = "SCHEMA_DIFFERS"
    TABLE_UNREADABLE = "TABLE_UNREADABLE"
    GLOBAL_MISSING = "GLOBAL_MISSING"
    GLOBAL_VALUE = "GLOBAL_VALUE"
    DEVICE_VALUE = "DEVICE_VALUE"
    EXTENT_RANGE = "EXTENT_RANGE"
    EXTENT_OVERLAP = "EXTENT_OVERLAP"
    EXTENT_WINDOW = "EXTENT_WINDOW"
    EXTENT_KIND = "EXTENT_KIND"
    EXTENT_TARGET = "EXTENT_TARGET"
    EXTENT_IDENTITY = "EXTENT_IDENTITY"
    COW_RANGE = "COW_RANGE"
    COW_OVERLAP = "COW_OVERLAP"
    COW_WINDOW = "COW_WINDOW"
    COWDATA_SHORT = "COWDATA_SHORT"
    COUNT_WRONG = "COUNT_WRONG"
    HASH_TARGET = "HASH_TARGET"
    HASH_ENTRIES = "HASH_ENTRIES"
    CHECKSUM_ROW = "CHECKSUM_ROW"
    FLUSHING_RANGE = "FLUSHING_RANGE"
    FLUSHING_SHOWN = "FLUSHING_SHOWN"
    FINGERPRINT_RANGE = "FINGERPRINT_RANGE"
    COWDATA_UNREADABLE = "COWDATA_UNREADABLE"
    HASH_CONTENT = "HASH_CONTENT"
    CHECKSUM_CONTENT = "CHECKSUM_CONTENT"
    UPSTREAM_UNUSABLE = "UPSTREAM_UNUSABLE"
    UPSTREAM_MISSING = "UPSTREAM_MISSING"
    UPSTREAM_CHANGED = "UPSTREAM_CHANGED"


REPAIRS: Final[Mapping[Code, Repair]] = MappingProxyType(
    {
        Code.METADATA_MISSING: Repair.NONE,
        Code.COWDATA_MISSING: Repair.NONE,
        Code.FILE_TYPE: Repair.NONE,
        Code.LABEL_MISSING: Repair.RELABEL,
        Code.LABEL_DAMAGED: Repair.RELABEL,
        Code.LABEL_STORE: Repair.NONE,
        Code.LABEL_GENERATION: Repair.OLDER_MAP,
        Code.DATABASE_UNREADABLE: Repair.SALVAGE,
        Code.DATABASE_FOREIGN: Repair.NONE,
        Code.DATABASE_VERSION: Repair.USE_MATCHING,
        Code.DATABASE_DAMAGED: Repair.SALVAGE,
        Code.SCHEMA_DIFFERS: Repair.SALVAGE,
        Code.TABLE_UNREADABLE: Repair.SALVAGE,
        Code.GLOBAL_MISSING: Repair.SALVAGE,
        Code.GLOBAL_VALUE: Repair.SALVAGE,
        Code.DEVICE_VALUE: Repair.NONE,
        Code.EXTENT_RANGE: Repair.DROP_EXTENT,
        Code.EXTENT_OVERLAP: Repair.DROP_EXTENT,
        Code.EXTENT_WINDOW: Repair.SPLIT_EXTENT,
        Code.EXTENT_KIND: Repair.DROP_EXTENT,
        Code.EXTENT_TARGET: Repair.DROP_EXTENT,
        Code.EXTENT_IDENTITY: Repair.SPLIT_EXTENT,
        Code.COW_RANGE: Repair.RECOUNT,
        Code.COW_OVERLAP: Repair.RECOUNT,
        Code.COW_WINDOW: Repair.RECOUNT,
        Code.COWDATA_SHORT: Repair.DROP_EXTENT,
        Code.COUNT_WRONG: Repair.RECOUNT,
        Code.HASH_TARGET: Repair.DROP_HASHES,
        Code.HASH_ENTRIES: Repair.RECOUNT,
        Code.CHECKSUM_ROW: Repair.DROP_CHECKSUMS,
        Code.FLUSHING_RANGE: Repair.KEEP_ON_DEVICE,
        Code.FLUSHING_SHOWN: Repair.TAKE_AS_IT_IS,
        Code.FINGERPRINT_RANGE: Repair.DROP_FINGERPRINT,
        Code.COWDATA_UNREADABLE: Repair.NONE,
        Code.HASH_CONTENT: Repair.DROP_ENTRY,
        Code.CHECKSUM_CONTENT: Repair.FORGET_CHECKSUM,
        Code.UPSTREAM_UNUSABLE: Repair.GIVE_UPSTREAM,
        Code.UPSTREAM_MISSING: Repair.GIVE_UPSTREAM,
        Code.UPSTREAM_CHANGED: Repair.GIVE_UPSTREAM,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, and what."""

    code: Code
    place: str
    message: str

    @property
    def repair(self) -> Repair:
        """Return what a repair would do about this."""
        return REPAIRS[self.code]


@dataclass(slots=True)
class Damage:
    """Where contents are not what is recorded of them, for who repairs: parts of one array each.

    Block addresses whose checksum differs; keys of hash entries; block addresses of contents that
    no hash entry speaks for.
    """

    sums: list[NDArray[np.int64]] = field(default_factory=list)
    entries: list[NDArray[np.int64]] = field(default_factory=list)
    contents: list[NDArray[np.int64]] = field(default_factory=list)


class Progress(Protocol):
    """Told how far a check is."""

    def stage(self, name: str) -> None:
        """Note that a stage begins."""

    def advance(self, part: float) -> None:
        """Note which part of the stage is done, from 0 to 1; not every stage tells."""


class NoProgress:
    """Keeps quiet."""

    def stage(self, name: str) -> None:
        """See Progress."""

    def advance(self, part: float) -> None:
        """See Progress."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check.

    `findings` holds at most `KEPT_PER_CODE` of each code, `totals` counts all of them; `facts` are
    figures about what was looked at, none of them a problem.
    """

    findings: tuple[Finding, ...]
    totals: Mapping[Code, int]
    facts: Mapping[str, int]
    damage: Damage = field(default_factory=Damage)

    @property
    def is_clean(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.findings


@dataclass(slots=True)
class Findings:
    """Collects what one check finds."""

    facts: dict[str, int] = field(default_factory=dict)
    damage: Damage = field(default_factory=Damage)
    _kept: list[Finding] = field(default_factory=list)
    _totals: Counter[Code] = field(default_factory=Counter)

    def add(self, code: Code, place: str, message: str) -> None:
        """Note one finding."""
        self._totals[code] += 1
        if self._totals[code] <= KEPT_PER_CODE:
            # What SQLite says may have several lines.
            self._kept.append(Finding(code, place, " ".join(message.splitlines())))

    def add_where(
        self, code: Code, wrong: NDArray[np.bool_], describe: Callable[[int], tuple[str, str]]
    ) -> None:
        """Note a finding for each true element.

        Args:
            code: of all of them.
            wrong: one element a row that was looked at.
            describe: returns place and message for an index into `wrong`; only called for
                findings that are kept.
        """
        rows = np.flatnonzero(wrong)
        room = max(0, KEPT_PER_CODE - self._totals[code])
        self._kept += [Finding(code, *describe(int(row))) for row in rows[:room]]
        if rows.size:
            self._totals[code] += int(rows.size)

    def count(self, fact: str, number: int) -> None:
        """Add to one of the figures about what was looked at."""
        self.facts[fact] = self.facts.get(fact, 0) + number

    def codes(self) -> set[Code]:
        """Return the codes of all findings so far."""
        return set(self._totals)

    def report(self) -> Report:
        """Return everything noted so far."""
        return Report(tuple(self._kept), dict(self._totals), dict(self.facts), self.damage)


class Columns(Protocol):
    """A named tuple of columns, the key of a row first."""

    def _asdict(self) -> dict[str, NDArray[np.int64]]: ...


def describer(
    columns: Columns, place: Callable[[int], str], template: str
) -> Callable[[int], tuple[str, str]]:
    """Return a function that puts a row's place and what is wrong with it in words.

    Args:
        columns: the rows.
        place: gives the place of a row's key.
        template: what is wrong; names of columns in braces stand for their values.
    """
    arrays = columns._asdict()
    key = next(iter(arrays.values()))

    def describe(row: int) -> tuple[str, str]:
        values = {name: int(array[row]) for name, array in arrays.items()}
        return place(int(key[row])), template.format_map(values)

    return describe


def reason(error: Exception) -> str:
    """Return what an error says, without the number and the path."""
    return getattr(error, "strerror", None) or str(error)
