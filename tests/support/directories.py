"""What is in directories, to show that something left them as they were."""

from pathlib import Path


def photograph(*directories: Path) -> dict[str, bytes | None]:
    """Return the bytes of every file below the directories; None for a directory.

    Never of an open database: closing its files would drop the locks on it.
    """
    found: dict[str, bytes | None] = {}
    for directory in directories:
        if directory.exists():
            found[str(directory)] = None
        for path in sorted(directory.rglob("*")):
            found[str(path)] = None if path.is_dir() else path.read_bytes()
    return found
