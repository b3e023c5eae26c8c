"""FUSE requests: finds the node or handle that a request is about and lets it answer.

Dispatch only. Every handler answers an errno whatever happens inside: any other exception than
`FUSEError` would end the mount.
"""

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio

from thincow.errors import RequestError
from thincow.mount.control_files import ControlFiles, ControlHandle
from thincow.mount.device_file import DeviceFiles, DeviceHandle
from thincow.mount.errno_table import errno_of
from thincow.mount.flush_file import FlushHandle
from thincow.mount.flush_words import FLUSH_ATTRIBUTE
from thincow.mount.hold_file import HoldHandle
from thincow.mount.inode_tree import InodeTree, Node

_log = logging.getLogger(__name__)

_NAME_MAX: Final = 255
_PERMISSIONS: Final = 0o7777

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def answers(
    handler: Callable[_Arguments, Coroutine[Any, Any, _Result]],
) -> Callable[_Arguments, Coroutine[Any, Any, _Result]]:
    """Turn every failure of a handler into an errno."""

    @functools.wraps(handler)
    async def answer(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        try:
            return await handler(*arguments, **named)
        except pyfuse3.FUSEError:
            raise
        except RequestError as error:
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except OSError as error:
            _log.exception("request %s failed", handler.__name__)
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:  # noqa: BLE001 - it must not end the mount
            _log.exception("request %s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return answer


async def _refuse(*_arguments: object) -> NoReturn:
    """Answer a wish to change the tree."""
    raise pyfuse3.FUSEError(errno.EPERM)


class ThincowOperations(pyfuse3.Operations):
    """The handlers that FUSE calls.

    Reading extended attributes is left unimplemented on purpose: once refused, the kernel stops
    asking for the capabilities of a file before every write to it.
    """

    def __init__(
        self,
        tree: InodeTree,
        device_files: DeviceFiles,
        control_files: ControlFiles,
        *,
        block_size: int,
    ) -> None:
        super().__init__()
        self.started = trio.Event()
        """Set when the kernel has begun to talk to us."""
        self._tree = tree
        self._device_files = device_files
        self._control_files = control_files
        self._block_size = block_size
        self._handles: dict[int, DeviceHandle | ControlHandle | FlushHandle | HoldHandle] = {}
        self._last_handle = 0

    def init(self) -> None:
        """Note that the session is up."""
        self.started.set()

    @answers
    async def lookup(
        self, parent_inode: int, name: bytes, _ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Find a name in a directory."""
        if name == b".":
            return self._tree[parent_inode].attributes()
        if name == b"..":
            return self._tree.parent(parent_inode).attributes()
        found = self._tree.find(parent_inode, name)
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return found

    @answers
    async def getattr(self, inode: int, _ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Tell a file's attributes."""
        return self._tree[inode].attributes()

    @answers
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        _fh: int | None,
        _ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Change attributes; those of devices for good."""
        node = self._tree[inode]
        if fields.update_size:
            await self._device_files.resize(node, attr.st_size)
        changes = {}
        if fields.update_mode:
            changes["mode"] = attr.st_mode & _PERMISSIONS
        if fields.update_uid:
            changes["uid"] = attr.st_uid
        if fields.update_gid:
            changes["gid"] = attr.st_gid
        if fields.update_mtime:
            changes["modified_ns"] = attr.st_mtime_ns
        node.change(**changes)
        if node.device is not None and changes:
            self._device_files.keep_attributes(node.device, changes)
        return node.attributes()

    @answers
    async def setxattr(
        self, inode: int, name: bytes, value: bytes, _ctx: pyfuse3.RequestContext
    ) -> None:
        """Take a command for a flush, as an attribute of the root; there are no others."""
        if inode != pyfuse3.ROOT_INODE or name != FLUSH_ATTRIBUTE.encode():
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        self._control_files.start_flush(value)

    @answers
    async def open(self, inode: int, flags: int, _ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Open a device file or render a virtual one."""
        node = self._tree[inode]
        self._last_handle = number = self._last_handle + 1
        handle: DeviceHandle | ControlHandle | FlushHandle | HoldHandle
        if node.control is not None:
            handle = await self._control_files.open(node.control, number)
        else:
            handle = await self._device_files.open(node, number, flags)
        self._tree.note_opened(node, flags)
        self._handles[number] = handle
        return handle.info

    @answers
    async def read(  # type: ignore[override] # any buffer will do, and it is sent at once
        self, fh: int, off: int, size: int
    ) -> bytes | memoryview:
        """Read from an open file."""
        return await self._handles[fh].read(off, size)

    @answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write to an open file."""
        return await self._handles[fh].write(off, buf)

    @answers
    async def flush(self, fh: int) -> None:
        """Close one descriptor of a handle; only a command left over in /flush has to run."""
        await self._handles[fh].flush()

    @answers
    async def fsync(self, fh: int, _datasync: bool) -> None:
        """Make what was written durable."""
        await self._handles[fh].sync()

    @answers
    async def fsyncdir(self, _fh: int, _datasync: bool) -> None:
        """Make everything durable: a directory stands for the devices in it."""
        await self._device_files.sync()

    @answers
    async def release(self, fh: int) -> None:
        """Forget a handle."""
        self._handles.pop(fh).close()

    @answers
    async def opendir(self, inode: int, _ctx: pyfuse3.RequestContext) -> int:
        """Open a directory: its inode serves as the handle."""
        return inode

    @answers
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """List a directory."""
        entries: list[tuple[bytes, Node]] = list(self._tree[fh].children.items())
        for position, (name, node) in enumerate(entries[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, node.attributes(), position):
                return

    @answers
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""

    @answers
    async def statfs(self, _ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Tell the size of all devices together; nothing is free, since nothing can be created."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = self._block_size
        data.f_blocks = self._tree.total_bytes // self._block_size
        data.f_bfree = data.f_bavail = 0
        data.f_files = len(self._tree)
        data.f_ffree = data.f_favail = 0
        data.f_namemax = _NAME_MAX
        return data

    create: Any = _refuse
    link: Any = _refuse
    mkdir: Any = _refuse
    mknod: Any = _refuse
    rename: Any = _refuse
    rmdir: Any = _refuse
    symlink: Any = _refuse
    unlink: Any = _refuse
