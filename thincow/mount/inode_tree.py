"""The fixed tree of names and attributes that a mount shows.

Inodes exist from mount to unmount; nothing is added or removed. Owner, mode and times can be
changed as on any file. Those of devices are kept in the store; upstream knows nothing of them.
"""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import pyfuse3

from thincow.engine.device import Device

# Names never change, so the kernel may keep them; it asks for attributes again after a second.
_ENTRY_TIMEOUT_S: Final = 3600
_ATTRIBUTE_TIMEOUT_S: Final = 1
_SECTOR: Final = 512
_FIRST_ALIAS: Final = 1 << 40


class ControlKind(Enum):
    """The virtual files, by what they show."""

    STATS = "stats.txt"
    STATS_FULL = "stats-full.txt"
    EXTENTS = "extents.txt"
    COW = "cow.txt"
    HASH_TABLE = "hash-table.txt"
    FLUSH_PLAN = "flush-plan.json"
    PID = "pid.txt"
    FLUSH = "flush"
    HOLD = "hold.json"


_DEBUG_FILES: Final = (
    ControlKind.EXTENTS,
    ControlKind.COW,
    ControlKind.HASH_TABLE,
    ControlKind.FLUSH_PLAN,
    ControlKind.PID,
)


@dataclass(slots=True)
class Node:
    """A file or directory; `mode` holds type and permissions, times are in nanoseconds."""

    inode: int
    mode: int
    mtime_ns: int
    children: dict[bytes, "Node"] = field(default_factory=dict)
    device: Device | None = None
    control: ControlKind | None = None
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    ctime_ns: int = field(default_factory=time.time_ns)
    is_modified: bool = False
    """Content was written that the modification time does not show yet."""
    allocated_bytes: Callable[[], int] | None = None
    """Tells how much space it takes; None: as much as its size."""

    @property
    def size_bytes(self) -> int:
        """Size of a device; others have none."""
        return 0 if self.device is None else self.device.size_bytes

    @property
    def is_directory(self) -> bool:
        """Whether it can have children."""
        return stat.S_ISDIR(self.mode)

    def change(
        self,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        modified_ns: int | None = None,
    ) -> None:
        """Change attributes; `mode` is permissions only."""
        if mode is not None:
            self.mode = stat.S_IFMT(self.mode) | mode
        self.uid = self.uid if uid is None else uid
        self.gid = self.gid if gid is None else gid
        if modified_ns is not None:
            self.mtime_ns = modified_ns
            self.is_modified = False
        self.ctime_ns = time.time_ns()

    def attributes(self) -> pyfuse3.EntryAttributes:
        """Return what `stat` shows."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self.inode
        entry.generation = 0
        entry.entry_timeout = 0 if self.control is ControlKind.FLUSH else _ENTRY_TIMEOUT_S
        entry.attr_timeout = _ATTRIBUTE_TIMEOUT_S
        entry.st_mode = self.mode
        entry.st_nlink = 2 if self.is_directory else 1
        entry.st_uid = self.uid
        entry.st_gid = self.gid
        entry.st_rdev = 0
        entry.st_size = self.size_bytes
        entry.st_blksize = 1 << 20 if self.device else 4096
        allocated = self.size_bytes if self.allocated_bytes is None else self.allocated_bytes()
        entry.st_blocks = -(-allocated // _SECTOR)
        entry.st_atime_ns = self.mtime_ns
        entry.st_mtime_ns = self.mtime_ns
        entry.st_ctime_ns = max(self.ctime_ns, self.mtime_ns)
        return entry


class InodeTree:
    """All nodes of a mount, by inode number.

    `/flush` has another number after each time it was opened for writing: the kernel lets one write
    of a file go on at a time, so a command that runs until the flush has ended would keep `cancel`
    waiting.
    """

    def __init__(self, devices: tuple[Device, ...], *, read_only: bool) -> None:
        self._nodes: dict[int, Node] = {}
        root = self._add_directory(None, "")
        assert root.inode == pyfuse3.ROOT_INODE
        shelf = self._add_directory(root, "devs")
        for device in devices:
            self._add_device(shelf, device, 0o400 if read_only else 0o600)
        for kind in (ControlKind.STATS, ControlKind.STATS_FULL):
            self._add_control(root, kind, 0o444)
        debug = self._add_directory(root, "debug")
        for kind in _DEBUG_FILES:
            self._add_control(debug, kind, 0o444)
        permissions = 0o400 if read_only else 0o600
        self._add_control(debug, ControlKind.HOLD, permissions)
        self._flush = self._add_control(root, ControlKind.FLUSH, permissions)
        self._flush_inode = self._flush.inode

    def __getitem__(self, inode: int) -> Node:
        return self._flush if inode >= _FIRST_ALIAS else self._nodes[inode]

    def find(self, directory: int, name: bytes) -> pyfuse3.EntryAttributes | None:
        """Return the attributes of what has a name in a directory; None when nothing has."""
        node = self._nodes[directory].children.get(name)
        if node is None:
            return None
        attributes = node.attributes()
        if node is self._flush:
            attributes.st_ino = self._flush_inode
        return attributes

    def note_opened(self, node: Node, flags: int) -> None:
        """Give `/flush` another number when it was opened for writing."""
        if node is self._flush and flags & os.O_ACCMODE != os.O_RDONLY:
            self._flush_inode = max(self._flush_inode + 1, _FIRST_ALIAS)

    @property
    def total_bytes(self) -> int:
        """Sizes of all device files together."""
        return sum(node.size_bytes for node in self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def parent(self, inode: int) -> Node:
        """Return the directory that holds a directory; the root's is the root."""
        for node in self._nodes.values():
            if any(child.inode == inode for child in node.children.values()):
                return node
        return self._nodes[pyfuse3.ROOT_INODE]

    def _add(self, parent: Node | None, name: str, node: Node) -> Node:
        self._nodes[node.inode] = node
        if parent is not None:
            parent.children[os.fsencode(name)] = node
        return node

    def _next_inode(self) -> int:
        return pyfuse3.ROOT_INODE + len(self._nodes)

    def _add_directory(self, parent: Node | None, name: str) -> Node:
        node = Node(self._next_inode(), stat.S_IFDIR | 0o755, time.time_ns())
        return self._add(parent, name, node)

    def _add_device(self, parent: Node, device: Device, permissions: int) -> None:
        self._add(parent, device.name, _device_node(self._next_inode(), device, permissions))

    def _add_control(self, parent: Node, kind: ControlKind, permissions: int) -> Node:
        mode = stat.S_IFREG | permissions
        return self._add(
            parent, kind.value, Node(self._next_inode(), mode, time.time_ns(), control=kind)
        )


class OverlayTree(InodeTree):
    """The tree of an overlay: the root is the file, and there is nothing else."""

    def __init__(self, root: Node) -> None:
        self._nodes = {root.inode: root}

    def __getitem__(self, inode: int) -> Node:
        return self._nodes[inode]

    def find(self, _directory: int, _name: bytes) -> None:
        """Find nothing: a file has no entries."""

    def note_opened(self, _node: Node, _flags: int) -> None:
        """Do nothing: there is no `/flush`."""


def _device_node(inode: int, device: Device, permissions: int) -> Node:
    """Make the node of a device; permissions and owner hold as long as nobody changed them."""
    return _node_of(inode, device, stat.S_IFREG | permissions, os.getuid(), os.getgid())


def overlay_node(device: Device, allocated_bytes: Callable[[], int]) -> Node:
    """Make the root of an overlay, which looks like the original until it is changed.

    To a user who is not root it is their own, as everything that they mount.
    """
    assert device.upstream is not None
    status = os.fstat(device.upstream.fd)
    permissions = stat.S_IMODE(status.st_mode) & 0o777
    if os.geteuid() == 0:
        owner = status.st_uid, status.st_gid
    else:
        owner = os.getuid(), os.getgid()
        permissions |= 0o600
    node = _node_of(pyfuse3.ROOT_INODE, device, stat.S_IFREG | permissions, *owner)
    node.allocated_bytes = allocated_bytes
    return node


def _node_of(inode: int, device: Device, mode: int, uid: int, gid: int) -> Node:
    row = device.row
    return Node(
        inode,
        mode if row.mode is None else stat.S_IFREG | row.mode,
        time.time_ns() if device.mtime_ns is None else device.mtime_ns,
        device=device,
        uid=uid if row.uid is None else row.uid,
        gid=gid if row.gid is None else row.gid,
    )
