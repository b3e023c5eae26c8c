"""FUSE requests on an overlay: its root is the one device, and it has no other files.

What other mounts show in files is told in extended attributes, which are not listed, so that no
copy of the file takes them along. To read attributes at all costs a request a write of a file that
is cached: the kernel asks for the file's capabilities. Other mounts refuse that once (see
`ThincowOperations`).
"""

import errno
import json
import os
from collections.abc import Sequence
from typing import Final

import pyfuse3

from thincow.engine.engine import Engine
from thincow.mount.control_files import ControlFiles
from thincow.mount.device_file import DeviceFiles
from thincow.mount.inode_tree import ControlKind, InodeTree
from thincow.mount.operations import ThincowOperations, answers
from thincow.mount.told import FACTS_NAME, attribute_of

_MAX_BYTES: Final = 1 << 16
_KINDS: Final = {
    attribute_of(kind.value).encode(): kind
    for kind in (
        ControlKind.FLUSH,
        ControlKind.FLUSH_PLAN,
        ControlKind.PID,
        ControlKind.STATS,
        ControlKind.STATS_FULL,
    )
}


class OverlayOperations(ThincowOperations):
    """The handlers that FUSE calls for an overlay."""

    def __init__(
        self,
        tree: InodeTree,
        device_files: DeviceFiles,
        control_files: ControlFiles,
        engine: Engine,
    ) -> None:
        super().__init__(tree, device_files, control_files, block_size=engine.block_size)
        self._engine = engine

    @answers
    async def getxattr(self, inode: int, name: bytes, _ctx: pyfuse3.RequestContext) -> bytes:
        """Tell the state of flushes, statistics, and what belongs to the overlay."""
        if name == attribute_of(FACTS_NAME).encode():
            return self._facts()
        kind = _KINDS.get(name)
        if kind is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        content = await self._control_files.content(kind, _MAX_BYTES)
        return content.rstrip(b"\n") if kind is ControlKind.FLUSH else content

    @answers
    async def listxattr(self, inode: int, _ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """List nothing."""
        return ()

    @answers
    async def removexattr(self, inode: int, name: bytes, _ctx: pyfuse3.RequestContext) -> None:
        """Refuse: there is nothing that could be removed."""
        raise pyfuse3.FUSEError(errno.ENOTSUP)

    @answers
    async def statfs(self, _ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Tell what room there is for new contents: that of the data directory."""
        found = os.statvfs(self._engine.options.data_dir)
        data = pyfuse3.StatvfsData()
        data.f_bsize, data.f_frsize = found.f_bsize, found.f_frsize
        data.f_blocks, data.f_bfree = found.f_blocks, found.f_bfree
        data.f_bavail = found.f_bavail
        data.f_files = 1
        data.f_ffree = data.f_favail = 0
        data.f_namemax = found.f_namemax
        return data

    def _facts(self) -> bytes:
        options = self._engine.options
        facts = {
            "data_dir": str(options.data_dir),
            "metadata_dir": None if options.metadata_dir is None else str(options.metadata_dir),
            "original": str(options.upstream_file),
            "device": self._engine.devices[0].name,
        }
        return json.dumps(facts).encode()
