"""What `thincow backup` shows at the end."""

import json
from pathlib import Path

from thincow.engine.backup import BackupResult

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def as_text(target: Path, result: BackupResult) -> str:
    """Return the result for people."""
    amounts = result.contents
    ways = {"copied": amounts.copied, "shared": amounts.shared, "unchanged": amounts.unchanged}
    how = ", ".join(f"{_size(number)} {way}" for way, number in ways.items() if number)
    contents = f"{_size(amounts.total)} of contents" + (f" ({how})" if how else "")
    return (
        f"{target}: backup of commit {result.generation}, {contents}, "
        f"{_size(result.metadata_bytes)} of metadata\n"
        "It is valid only with upstream as it is now: not after a flush."
    )


def to_json(result: BackupResult) -> str:
    """Return the result as a JSON object."""
    amounts = result.contents
    return json.dumps(
        {
            "generation": result.generation,
            "contents_bytes": amounts.total,
            "copied_bytes": amounts.copied,
            "shared_bytes": amounts.shared,
            "unchanged_bytes": amounts.unchanged,
            "metadata_bytes": result.metadata_bytes,
        },
        indent=2,
    )


def _size(number: float) -> str:
    for unit in _UNITS[:-1]:
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} {_UNITS[-1]}"
