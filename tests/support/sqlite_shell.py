"""A `sqlite3` shell in another process, as a user has one open beside a mount.

In our own process a second SQLite library would share, and on closing drop, the first one's locks.
"""

import subprocess
from pathlib import Path
from typing import Self


class SqliteShell:
    """An open shell; runs statements one after the other."""

    def __init__(self, database: Path) -> None:
        command = ["sqlite3", "-batch", str(database)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(".quit\n", timeout=20)

    def run(self, statements: str) -> list[str]:
        """Return the lines that the shell answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{statements};\n.print done\n")
        self._process.stdin.flush()
        lines = []
        while (line := self._process.stdout.readline().rstrip("\n")) != "done":
            assert line or self._process.poll() is None, "the shell has ended"
            lines.append(line)
        return lines
