"""Has the disk work on what was written before somebody waits for it."""

from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from thincow.store.disk import Disk


class EarlyWriteback:
    """Lets the kernel begin to write a file to its disk whenever so much more was written.

    That may wait for a slow disk: it is for threads that may, too.
    """

    def __init__(self, disk: Disk, fd: int, step_bytes: int) -> None:
        """Begin with nothing written."""
        self._disk = disk
        self._fd = fd
        self._step_bytes = step_bytes
        self._bytes = 0
        self._first = 0
        self._end = 0

    def note(self, offset: int, length: int) -> None:
        """Note that `length` bytes from byte `offset` on were written."""
        end = offset + length
        if self._bytes == 0:
            self._first, self._end = offset, end
        else:
            self._first, self._end = min(self._first, offset), max(self._end, end)
        self._bytes += length
        if self._bytes >= self._step_bytes and self._begin(self._first, self._end - self._first):
            self._bytes = 0

    def _begin(self, offset: int, length: int) -> bool:
        """Begin with a range of bytes; tell whether that could be."""
        with suppress(OSError):  # it only saves time; a sync tells of what is wrong
            self._disk.start_writeback(self._fd, offset, length)
        return True


class BackgroundWriteback(EarlyWriteback):
    """Does that in a thread of its own, for a thread that must not wait.

    What is written while the disk has not taken the last range yet is left for later.
    """

    def __init__(self, disk: Disk, fd: int, step_bytes: int) -> None:
        """Begin with nothing written."""
        super().__init__(disk, fd, step_bytes)
        self._ranges: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._is_busy = False

    def close(self) -> None:
        """Wait for what was begun; the file may be closed then."""
        if self._thread is not None:
            self._ranges.put(None)
            self._thread.join()
            self._thread = None

    def _begin(self, offset: int, length: int) -> bool:
        if self._is_busy:
            return False
        if self._thread is None:
            self._thread = Thread(target=self._run, name="early writeback", daemon=True)
            self._thread.start()
        self._is_busy = True
        self._ranges.put((offset, length))
        return True

    def _run(self) -> None:
        while (part := self._ranges.get()) is not None:
            super()._begin(*part)
            self._is_busy = False
