"""The least that a server with pyfuse3 can do: it stores nothing and answers from memory.

    python -m tools.benchmarks.null_server MOUNTPOINT BYTES [--direct-io]

Shows one file, `devs/disk`. Everything that the speed depends on is as in a real mount: the
options, the sizes of requests, the number of tasks, and that it has no extended attributes.
"""

import argparse
import errno
import os
import stat

import pyfuse3
import trio

from thincow.mount import fuse_server

DIRECTORY = pyfuse3.ROOT_INODE + 1
FILE = pyfuse3.ROOT_INODE + 2
CHUNK = 1 << 20


class NullOperations(pyfuse3.Operations):
    """Takes what is written and forgets it; reads give the same bytes again and again."""

    def __init__(self, size: int, *, direct_io: bool) -> None:
        super().__init__()
        self._size = size
        self._direct_io = direct_io
        self._content = memoryview(os.urandom(CHUNK))

    def _attributes(self, inode: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o600 if inode == FILE else stat.S_IFDIR | 0o700
        entry.st_size = self._size if inode == FILE else 0
        entry.st_nlink = 1
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        entry.attr_timeout = entry.entry_timeout = 300
        return entry

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        found = {(pyfuse3.ROOT_INODE, b"devs"): DIRECTORY, (DIRECTORY, b"disk"): FILE}
        if (parent_inode, name) not in found:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(found[parent_inode, name])

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, direct_io=self._direct_io, keep_cache=not self._direct_io)

    async def read(  # type: ignore[override] # any buffer will do
        self, fh: int, off: int, size: int
    ) -> memoryview:
        return self._content[: min(size, max(0, self._size - off))]

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return len(buf)

    async def flush(self, fh: int) -> None:
        pass

    async def fsync(self, fh: int, datasync: bool) -> None:
        pass

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return pyfuse3.StatvfsData()

    async def release(self, fh: int) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mount_point")
    parser.add_argument("bytes", type=int)
    parser.add_argument("--direct-io", action="store_true")
    arguments = parser.parse_args()
    operations = NullOperations(arguments.bytes, direct_io=arguments.direct_io)
    options = {*pyfuse3.default_options, "fsname=null"}
    pyfuse3.init(operations, arguments.mount_point, options)
    print("ready", flush=True)
    try:
        trio.run(serve)
    finally:
        pyfuse3.close(unmount=False)


async def serve() -> None:
    await pyfuse3.main(min_tasks=1, max_tasks=fuse_server._MAX_TASKS)


if __name__ == "__main__":
    main()
