"""A filesystem that serves the files of a directory and fails where it is told to.

Runs as its own process: python tests/support/faulty_fuse.py BACKING MOUNTPOINT [options]. Reads
that touch a bad block (every Nth block of every file) answer EIO. The control file, read again at
every request, makes requests fail while it names them: the words `read`, `write` and `fsync`, or
`write:7` for writes that touch block 7 of any file. `hold` lets writes wait for as long as it is
there, `hold-read` reads (a file of the control file's name and `.held` says that one waits), and
`slow` lets each read take some time. Ends and unmounts on SIGTERM, SIGINT or when its parent ends.

Files are served with direct I/O: the kernel's own read-ahead would otherwise widen one bad block
to a whole folio. (A loop device on top reads ahead too: see `loop_devices`.) With `--writeback`
the kernel keeps what is written and writes it later, so that a failure shows at a sync.
`tests.support.faulty_disk` starts and stops it.
"""

import argparse
import ctypes
import errno
import os
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

import pyfuse3
import trio

_PR_SET_PDEATHSIG = 1
_SLOW_S = 0.03


class FaultyOperations(pyfuse3.Operations):
    """One flat directory: inode 1 is the root, file i of the sorted names has inode i + 2."""

    def __init__(
        self,
        backing: Path,
        read_error_every: int,
        first_bad_block: int,
        block_size: int,
        control: Path | None,
        *,
        writeback: bool,
    ) -> None:
        super().__init__()
        self._read_error_every = read_error_every
        self._first_bad_block = first_bad_block
        self._block_size = block_size
        self._control = control
        self.enable_writeback_cache = writeback
        self._names = sorted(entry.name for entry in backing.iterdir() if entry.is_file())
        self._fds = [os.open(backing / name, os.O_RDWR) for name in self._names]

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        try:
            index = self._names.index(os.fsdecode(name))
        except ValueError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None
        return self._attributes(index + 2)

    async def getattr(
        self, inode: int, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        for index in range(start_id, len(self._names)):
            name = os.fsencode(self._names[index])
            if not pyfuse3.readdir_reply(token, name, self._attributes(index + 2), index + 1):
                return

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, direct_io=not self.enable_writeback_cache)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        while "hold-read" in self._words():
            self._control.with_suffix(".held").touch()
            await trio.sleep(0.01)
        self._fail_if_told("read", off // self._block_size, -(-(off + size) // self._block_size))
        if "slow" in self._words():
            await trio.sleep(_SLOW_S)
        if self._read_error_every and self._touches_bad_block(off, size):
            raise pyfuse3.FUSEError(errno.EIO)
        return os.pread(self._fds[fh - 2], size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        while "hold" in self._words():
            await trio.sleep(0.01)
        self._fail_if_told(
            "write", off // self._block_size, -(-(off + len(buf)) // self._block_size)
        )
        return os.pwrite(self._fds[fh - 2], buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._fail_if_told("fsync")
        os.fsync(self._fds[fh - 2])

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            os.ftruncate(self._fds[inode - 2], attr.st_size)
        if fields.update_mtime:
            os.utime(self._fds[inode - 2], ns=(attr.st_mtime_ns, attr.st_mtime_ns))
        return self._attributes(inode)

    def _fail_if_told(self, kind: str, first_block: int = 0, end_block: int = 0) -> None:
        for word in self._words():
            name, _, block = word.partition(":")
            if name == kind and (not block or first_block <= int(block) < end_block):
                raise pyfuse3.FUSEError(errno.EIO)

    def _words(self) -> list[str]:
        if self._control is None:
            return []
        try:
            return self._control.read_text("ascii").split()
        except FileNotFoundError:
            return []

    def _touches_bad_block(self, offset: int, size: int) -> bool:
        first = offset // self._block_size - self._first_bad_block
        last = (offset + max(size, 1) - 1) // self._block_size - self._first_bad_block
        every = self._read_error_every
        return last >= 0 and last // every > (first - 1) // every

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_uid = os.getuid()
        attributes.st_gid = os.getgid()
        if inode == pyfuse3.ROOT_INODE:
            attributes.st_mode = stat.S_IFDIR | 0o755
            return attributes
        status = os.fstat(self._fds[inode - 2])
        attributes.st_mode = stat.S_IFREG | 0o600
        attributes.st_size = status.st_size
        attributes.st_mtime_ns = status.st_mtime_ns
        return attributes


async def _serve() -> None:
    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            # Installed before the first request: whoever sees the mount may send a signal.
            nursery.start_soon(_serve_requests, nursery.cancel_scope)
            async for _ in signals:
                nursery.cancel_scope.cancel()


async def _serve_requests(scope: trio.CancelScope) -> None:
    await pyfuse3.main(min_tasks=1)
    scope.cancel()  # unmounted from outside


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backing", type=Path)
    parser.add_argument("mountpoint", type=Path)
    parser.add_argument("--read-error-every", type=int, default=0)
    parser.add_argument("--first-bad-block", type=int, default=0)
    parser.add_argument("--block-size", type=int, default=4096)
    parser.add_argument("--control", type=Path)
    parser.add_argument("--writeback", action="store_true")
    options = parser.parse_args(arguments)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    operations = FaultyOperations(
        options.backing,
        options.read_error_every,
        options.first_bad_block,
        options.block_size,
        options.control,
        writeback=options.writeback,
    )
    fuse_options = set(pyfuse3.default_options) | {"fsname=faulty"}
    pyfuse3.init(operations, str(options.mountpoint), fuse_options)
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1:])
