"""Reads rows out of the pages of a damaged database, without SQLite.

SQLite refuses a database whose first page is destroyed, and a table from the first bad page on.
Here pages are read for what they are: trees are walked from their roots, what is broken is left
out, and leaves that no tree leads to are handed out too. Nothing in the file is run, whatever its
schema says. The format is that of https://www.sqlite.org/fileformat2.html.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from thincow.store.columns import SQLValue
from thincow.store.disk import Disk

Row = tuple[int, list[SQLValue]]
"""Row id (0 in a table without) and the values of the columns."""

_MAGIC: Final = b"SQLite format 3\0"
_DEFAULT_PAGE_BYTES: Final = 4096
_FIRST_PAGE_HEADER: Final = 100
_LOG_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_INTERIOR, _LEAF, _INDEX_INTERIOR, _INDEX_LEAF = 5, 13, 2, 10
_MAX_ROW_BYTES: Final = 1 << 16
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)


class PageReader:
    """The pages of a database and of its write-ahead log.

    Args:
        disk: the seam to read through.
        path: the database; `path`-wal is read too, when it is there.

    Raises:
        OSError: when a file cannot be read.
    """

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._fd = disk.open(path, os.O_RDONLY)
        self._log_fd = -1
        try:
            self._in_log: dict[int, int] = {}
            self._size = disk.size(self._fd)
            log = path.with_name(path.name + "-wal")
            if log.exists():
                self._log_fd = disk.open(log, os.O_RDONLY)
            self._page_bytes = self._find_page_size()
            if self._log_fd >= 0:
                self._index_log()
        except BaseException:
            self.close()
            raise
        self._pages = max([self._size // self._page_bytes, *self._in_log])
        self._seen: set[int] = set()
        self.is_whole = True
        """False once a tree led to what is no page of it: rows are missing."""

    def close(self) -> None:
        """Close the files."""
        for fd in (self._fd, self._log_fd):
            if fd >= 0:
                self._disk.close(fd)

    def roots(self) -> dict[str, int]:
        """Return the root page of each table that the schema in the file tells of."""
        found = {}
        for _, values in self.rows(1):
            match values:
                case ["table", str(name), str(), int(root), *_] if 1 < root <= self._pages:
                    found[name] = root
        return found

    def rows(self, root: int) -> Iterator[Row]:
        """Yield what can be read of one table, in the order of its keys where the tree is right."""
        waiting = [root]
        while waiting:
            number = waiting.pop()
            page = self._page(number)
            kind = self._kind(number, page)
            if number in self._seen or kind not in (_INTERIOR, _LEAF, _INDEX_INTERIOR, _INDEX_LEAF):
                self.is_whole = False
                continue
            self._seen.add(number)
            if kind in (_INTERIOR, _INDEX_INTERIOR):
                waiting += reversed(self._children(number, page))
            if kind != _INTERIOR:
                yield from self._cells(number, page)

    def orphans(self) -> Iterator[Row]:
        """Yield the rows in leaves of tables that `rows` did not come by; some may be outdated."""
        in_file = self._size // self._page_bytes
        for number in (*range(2, in_file + 1), *sorted(self._in_log)):
            if number not in self._seen:
                self._seen.add(number)
                page = self._page(number)
                if self._kind(number, page) == _LEAF:
                    yield from self._cells(number, page)

    def _find_page_size(self) -> int:
        header = self._disk.read(self._fd, _FIRST_PAGE_HEADER, 0)
        size = int.from_bytes(header[16:18])
        if header.startswith(_MAGIC) and _is_page_size(size):
            return 65536 if size == 1 else size
        return _DEFAULT_PAGE_BYTES

    def _index_log(self) -> None:
        """Note where the last committed version of each page is in the write-ahead log."""
        header = self._disk.read(self._log_fd, _LOG_HEADER, 0)
        if int.from_bytes(header[:4]) & ~1 != 0x377F0682:
            return
        salt = header[16:24]
        pending: dict[int, int] = {}
        step = _FRAME_HEADER + self._page_bytes
        size = self._disk.size(self._log_fd)
        for at in range(_LOG_HEADER, size - step + 1, step):
            frame = self._disk.read(self._log_fd, _FRAME_HEADER, at)
            if frame[8:16] != salt:
                return
            pending[int.from_bytes(frame[:4])] = at + _FRAME_HEADER
            if int.from_bytes(frame[4:8]):
                self._in_log |= pending
                pending = {}

    def _page(self, number: int) -> bytes:
        if number in self._in_log:
            return self._disk.read(self._log_fd, self._page_bytes, self._in_log[number])
        if not 1 <= number <= self._pages:
            return b""
        try:
            return self._disk.read(self._fd, self._page_bytes, (number - 1) * self._page_bytes)
        except OSError:
            return b""

    def _kind(self, number: int, page: bytes) -> int:
        start = _FIRST_PAGE_HEADER if number == 1 else 0
        return page[start] if len(page) == self._page_bytes else 0

    def _pointers(self, number: int, page: bytes) -> list[int]:
        start = _FIRST_PAGE_HEADER if number == 1 else 0
        count = int.from_bytes(page[start + 3 : start + 5])
        begin = start + (12 if page[start] in (_INTERIOR, _INDEX_INTERIOR) else 8)
        count = min(count, (len(page) - begin) // 2)
        return [int.from_bytes(page[at : at + 2]) for at in range(begin, begin + 2 * count, 2)]

    def _children(self, number: int, page: bytes) -> list[int]:
        start = _FIRST_PAGE_HEADER if number == 1 else 0
        last = int.from_bytes(page[start + 8 : start + 12])
        pointers = self._pointers(number, page)
        return [*(int.from_bytes(page[at : at + 4]) for at in pointers), last]

    def _cells(self, number: int, page: bytes) -> Iterator[Row]:
        kind = self._kind(number, page)
        for at in self._pointers(number, page):
            try:
                at += 4 if kind == _INDEX_INTERIOR else 0
                size, at = _varint(page, at)
                key = 0
                if kind == _LEAF:
                    key, at = _varint(page, at)
                yield key, _record(self._payload(page, at, size))
            except (ValueError, IndexError):
                self.is_whole = False

    def _payload(self, page: bytes, at: int, size: int) -> bytes:
        """Return the content of a cell; what does not fit its page goes on in a chain of others."""
        usable = self._page_bytes
        if not 0 < size <= _MAX_ROW_BYTES:
            raise ValueError("no size of a row")
        here = size
        if size > usable - 35:
            least = (usable - 12) * 32 // 255 - 23
            here = least + (size - least) % (usable - 4)
            here = here if here <= usable - 35 else least
        content = page[at : at + here]
        following = int.from_bytes(page[at + here : at + here + 4])
        while len(content) < size:
            more = self._page(following)
            if len(more) != usable:
                raise ValueError("the rest of a row is missing")
            content += more[4 : 4 + size - len(content)]
            following = int.from_bytes(more[:4])
        return content


def _is_page_size(size: int) -> bool:
    return size == 1 or (512 <= size <= 32768 and size & (size - 1) == 0)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the signed number at an offset, and the offset behind it."""
    value = 0
    for _ in range(8):
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at
    value = value << 8 | data[at]
    return (value - (1 << 64) if value >> 63 else value), at + 1


def _record(data: bytes) -> list[SQLValue]:
    """Decode one record.

    Raises:
        ValueError, IndexError: when it is none.
    """
    header_bytes, at = _varint(data, 0)
    if not 0 < header_bytes <= len(data):
        raise ValueError("no record")
    body = header_bytes
    values: list[SQLValue] = []
    while at < header_bytes:
        code, at = _varint(data, at)
        value, body = _value(data, body, code)
        values.append(value)
    return values


def _value(data: bytes, at: int, code: int) -> tuple[SQLValue, int]:
    if code == 0:
        return None, at
    if code in (8, 9):
        return code - 8, at
    size = _INTEGER_BYTES[code] if 0 < code < 7 else 8 if code == 7 else (code - 12) // 2
    if code in (10, 11) or code < 0 or at + size > len(data):
        raise ValueError("no value")
    content = data[at : at + size]
    if code < 7:
        return int.from_bytes(content, signed=True), at + size
    if code == 7:
        return None, at + size  # no column of ours holds a floating point number
    return (content.decode() if code & 1 else content), at + size
