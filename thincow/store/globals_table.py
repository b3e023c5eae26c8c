"""Typed SQL of the table `globals`: facts about the whole store."""

from dataclasses import dataclass
from typing import Any

import apsw

from thincow.block_types import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE
from thincow.errors import CorruptStoreError
from thincow.store.bulk import fetch_rows

_CHECKSUM_WIDTHS = (0, 8, 16, 32, 64)

ENTRIES_LOST = "entries_lost"
"""Key of a row that may be missing: 1 while contents of `cowdata` may lack their hash entries."""


@dataclass(frozen=True, slots=True)
class Globals:
    """The rows of the table. `block_size` in bytes; `clean`: closed properly."""

    store_id: str
    block_size: int
    window_blocks: int
    generation: int
    clean: bool
    hash_entries: int
    checksum_bits: int


def load(db: apsw.Connection) -> Globals:
    """Read and validate the table.

    Raises:
        CorruptStoreError: when a value is missing or cannot be right.
    """
    rows: dict[Any, Any] = dict(fetch_rows(db, "SELECT key, value FROM globals"))
    try:
        found = Globals(
            store_id=_text(rows["store_id"]),
            block_size=_integer(rows["block_size"], MIN_BLOCK_SIZE, MAX_BLOCK_SIZE),
            window_blocks=_integer(rows["window_blocks"], 1, 1 << 20),
            generation=_integer(rows["generation"], 0, 1 << 62),
            clean=bool(_integer(rows["clean"], 0, 1)),
            hash_entries=_integer(rows["hash_entries"], 0, 1 << 62),
            checksum_bits=_integer(rows["checksum_bits"], 0, 64),
        )
    except (KeyError, ValueError) as error:
        raise CorruptStoreError(f"the table globals is damaged: {error}") from error
    if found.block_size & (found.block_size - 1) or found.window_blocks & (found.window_blocks - 1):
        raise CorruptStoreError("the table globals is damaged: a size is no power of two")
    if found.checksum_bits not in _CHECKSUM_WIDTHS:
        raise CorruptStoreError("the table globals is damaged: checksum_bits")
    return found


def store(db: apsw.Connection, values: dict[str, str | int]) -> None:
    """Insert or replace rows."""
    for key, value in values.items():
        db.execute("INSERT OR REPLACE INTO globals(key, value) VALUES (?, ?)", (key, value))


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) != 32:
        raise ValueError("store_id")
    return value


def _integer(value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r} is not between {low} and {high}")
    return value
