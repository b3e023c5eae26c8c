"""A random session in which flushes bring the devices upstream."""

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.crash.flushing import FlushRun, random_order
from tests.crash.history import History
from tests.crash.recording import TIME_SUFFIX, Recorder
from tests.crash.setting import BLOCK_SIZE, Setting, patched
from tests.crash.workload import LiveMismatchError, Session
from tests.support.random_operations import Operation
from thincow.block_types import COW_BASE
from thincow.engine.flush_order import FlushOrder
from thincow.errors import FlushError


class FlushingSession(Session):
    """A session that flushes now and then. It is the client of its flushes, too."""

    def __init__(
        self, setting: Setting, recorder: Recorder, history: History, generator: random.Random
    ) -> None:
        super().__init__(setting, recorder, history, generator)
        self._flushes = setting.flushes
        self._spare_blocks = setting.spare_blocks
        self._fails_copies = setting.fails_copies
        self._something_fails = setting.fails_upstream > 0 or setting.fails_copies > 0
        before = recorder.fail_sync

        def fails(path: str) -> bool:
            is_upstream = path.startswith("upstream/") and not path.endswith(TIME_SUFFIX)
            return before(path) or (is_upstream and generator.random() < setting.fails_upstream)

        recorder.fail_sync = fails

    def _actions(self) -> dict[Callable[[], None], float]:
        return {**super()._actions(), self._flush: self._flushes}

    def _flush(self) -> None:
        self._random.choices((self._rotate, self._shift, lambda: None), (6, 2, 2))[0]()
        recorder = self._recorder

        def set_cold(is_cold: bool) -> None:
            recorder.is_cold = is_cold

        def set_meanwhile(action: Callable[[], None]) -> None:
            recorder.meanwhile = action

        is_quiet = self._random.random() < 0.3
        run = FlushRun(
            self._opened,
            self,
            self._random,
            set_cold,
            set_meanwhile,
            is_quiet,
            self._fails_copies,
        )
        order = random_order(self._random, [device.name for device in self._opened.devices])
        try:
            with self._little_space():
                run.run(order)
        except FlushError as error:
            allowed = {
                errno.EIO: self._something_fails,
                # Cycles need space, of which there may be none.
                errno.ENOSPC: self._has_quota,
                # Other devices show what these have.
                errno.EBUSY: order.names is not None,
            }
            if not allowed.get(error.code, False):
                raise
            return
        if run.is_killed and not self._failures:
            self._kill()
        elif is_quiet and order == FlushOrder(batch_bytes=order.batch_bytes):
            self._check_flushed()

    @property
    def _has_quota(self) -> bool:
        return self._options.max_cow_blocks is not None or self._spare_blocks is not None

    @contextmanager
    def _little_space(self) -> Iterator[None]:
        """Let `cowdata` grow by no more than the spare blocks meanwhile."""
        if self._spare_blocks is None:
            yield
            return
        cow = self._opened._parts.cow
        with patched(cow, "_max_blocks", cow.end_block + self._spare_blocks):
            yield

    def _check_flushed(self) -> None:
        status = self._opened.status()
        assert self._options.upstream_dir is not None
        upstream = tuple(
            (self._options.upstream_dir / device.name).read_bytes()
            for device in self._opened.devices
        )
        if status != "clean" or upstream != self._history.contents():
            raise LiveMismatchError(f"after a flush: {status}, or upstream is not equal")

    def freeze(self) -> int:
        """See `Client`."""
        return self._history.freeze()

    def acknowledge(self, moment: int) -> None:
        """See `Client`."""
        self._history.acknowledge(moment)

    def check_read(self, device: int, offset: int, found: bytes) -> None:
        """See `Client`."""
        expected = self._history.model.read(device, offset, max(1, len(found)))
        self._compare(found, expected, Operation("read", device, offset, len(found)))

    def _rotate(self) -> None:
        """Let some ranges change places: a cycle, when their contents are known."""
        length = self._random.randint(1, 3) * BLOCK_SIZE
        places = []
        for _ in range(self._random.randint(2, 4)):
            number = self._random.randrange(len(self._opened.devices))
            blocks = max(1, self._opened.devices[number].size_bytes // BLOCK_SIZE)
            places.append((number, self._random.randrange(blocks) * BLOCK_SIZE))
        contents = []
        for number, offset in places:
            self._read(Operation("read", number, offset, length))
            contents.append(self._history.model.read(number, offset, length))
        for (number, offset), data in zip(places, [*contents[1:], contents[0]], strict=True):
            self._write(Operation("write", number, offset, data=data))

    def _shift(self) -> None:
        """Let the blocks of a device move up by one: a chain, when their contents are known."""
        number = self._random.randrange(len(self._opened.devices))
        size = self._opened.devices[number].size_bytes // BLOCK_SIZE * BLOCK_SIZE
        self._read(Operation("read", number, 0, size))
        old = self._history.model.read(number, 0, size)
        for at in range(size - BLOCK_SIZE, 0, -BLOCK_SIZE):
            data = old[at - BLOCK_SIZE : at]
            self._write(Operation("write", number, at, data=data))

    def aimed_request(self) -> None:
        """Write where it hurts: see `Client`."""
        number = self._random.randrange(len(self._opened.devices))
        references = self._dirty(number)
        dirty = list(references)
        users = [at for at in dirty if 0 <= references[at] < COW_BASE]
        if not dirty:
            return
        if users and self._random.random() < 0.5:
            self._write_block(
                number, self._random.choice(users), self._random.randbytes(BLOCK_SIZE)
            )
            return
        at = self._random.choice(dirty)
        old = self._upstream_block(number, at)
        kind = self._random.randrange(3)
        if kind == 0:
            self._write_block(number, at, old)
        elif kind == 1:
            elsewhere = 0 if self._opened.devices[0].blocks else number  # it may have been cut
            blocks = self._opened.devices[elsewhere].blocks
            self._write_block(elsewhere, self._random.randrange(blocks), old)
        else:
            now = self._history.model.read(number, at * BLOCK_SIZE, BLOCK_SIZE)
            self._write_block(number, at, self._random.randbytes(BLOCK_SIZE))
            self._write_block(number, at, now)

    def restore_some(self) -> None:
        """Write back what is upstream of about half of the dirty blocks: see `Client`."""
        for number in range(len(self._opened.devices)):
            for block in self._dirty(number):
                if self._random.random() < 0.5:
                    self._write_block(number, block, self._upstream_block(number, block))

    def _dirty(self, number: int) -> dict[int, int]:
        """Return the references of the dirty blocks of a device, by number, ascending."""
        device = self._opened.devices[number]
        if not device.blocks:
            return {}
        first = device.first_block
        references = self._opened._parts.block_map.references(first, device.blocks).tolist()
        return {at: held for at, held in enumerate(references) if held != first + at}

    def _upstream_block(self, number: int, block: int) -> bytes:
        assert self._options.upstream_dir is not None
        upstream = (self._options.upstream_dir / self._opened.devices[number].name).read_bytes()
        return upstream[block * BLOCK_SIZE : (block + 1) * BLOCK_SIZE]

    def _write_block(self, number: int, block: int, data: bytes) -> None:
        self._write(Operation("write", number, block * BLOCK_SIZE, data=data))
