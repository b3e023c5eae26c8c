"""A flush in a random session, with a client that goes on between and during its steps.

The steps of a flush are done as a mount does them: commits at their time, contents written while
requests come in, now and then slow reads and commits that are under way for a while.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tests.crash.setting import BLOCK_SIZE
from thincow.engine.commit import Commit
from thincow.engine.engine import Engine
from thincow.engine.fetch import Fetch, WouldBlock
from thincow.engine.flush_order import FlushOrder
from thincow.engine.flush_steps import Pause, Step
from thincow.engine.flush_write import PieceRead
from thincow.errors import BlockReadError, CommitError, StoreFailedError, ThincowError

_CLIENT_STEPS = 24
"""A flush goes on until nothing is dirty: beside a client that never stops it would not end."""


class Client(Protocol):
    """What happens besides a flush, and what the model is told."""

    def some_requests(self) -> None:
        """Read and write something."""

    def aimed_request(self) -> None:
        """Write what a flush may not expect.

        Rewrite a block that shows another one's upstream content, write back what is upstream of a
        dirty block, copy that elsewhere, or rewrite a dirty block back and forth.
        """

    def restore_some(self) -> None:
        """Write back what is upstream of about half of the dirty blocks."""

    def freeze(self) -> int:
        """Note that a commit covers all writes until now; return their number."""

    def acknowledge(self, moment: int) -> None:
        """Note that a frozen moment is durable."""

    def check_read(self, device: int, offset: int, found: bytes) -> None:
        """Compare what was read with the model."""


@dataclass
class SlowRead:
    """A read whose contents are fetched some time after they were asked for."""

    engine: Engine
    device: int
    offset: int
    length: int
    fetch: Fetch | None = None
    found: bytes | None = None

    def ask(self) -> None:
        """Ask, again once contents were fetched: `found` is the answer, if there is one."""
        device = self.engine.devices[self.device]
        try:
            answer = self.engine.read(device, self.offset, self.length, self.fetch)
        except WouldBlock as blocked:
            self.fetch = blocked.fetch
            return
        except BlockReadError:
            answer = b""
        self.found = bytes(answer)
        if self.fetch is not None:
            self.fetch.release()

    def advance(self) -> None:
        """Do the next part of the work: fetch, or ask again."""
        if self.fetch is not None and self.fetch.is_waiting:
            self.fetch.run()
        else:
            self.ask()


@dataclass
class FlushRun:
    """Goes through one flush.

    Attributes:
        engine: whose flush it is.
        client: what else happens.
        chance: decides.
        set_cold: takes whether reads find nothing in the page cache.
        set_meanwhile: takes what is to happen after each write to upstream.
        is_quiet: no client.
        fails_copies: the part of reads of what is in the way that fail.
    """

    engine: Engine
    client: Client
    chance: random.Random
    set_cold: Callable[[bool], None]
    set_meanwhile: Callable[[Callable[[], None]], None]
    is_quiet: bool
    fails_copies: float = 0.0
    _left: int = _CLIENT_STEPS
    _left_at_copies: int = _CLIENT_STEPS
    _commit: tuple[Commit, int] | None = None
    _reads: list[SlowRead] = field(default_factory=list)
    is_killed: bool = False

    def run(self, order: FlushOrder) -> None:
        """Flush; `is_killed` says afterwards that it is to end by a kill.

        Raises:
            FlushError, CommitError, StoreFailedError: as the steps do.
        """
        control = self.engine.flush
        steps = control.begin(order).steps()
        failure: ThincowError | None = None
        try:
            for number in range(0 if self.is_quiet else len(self.engine.devices)):
                self._read_slowly(number)
            step = next(steps, None)
            while step is not None and not self.is_killed:
                self._disturb()
                try:
                    self._do(step)
                except (CommitError, StoreFailedError) as error:
                    steps.throw(error)
                step = next(steps, None)
        except ThincowError as error:
            failure = error
            raise
        finally:
            self.set_meanwhile(lambda: None)
            steps.close()
            control.end(failure)
            self._finish_reads()
            if not self.is_killed:
                self._finish_commit()

    def _do(self, step: Step) -> None:
        if step is Pause.COMMIT:
            self._finish_commit()
            moment = self.client.freeze()
            self.engine.commit()
            self.client.acknowledge(moment)
            # What changes from here on is in no commit when the next batch is chosen.
            if not self.is_quiet and self._left > 0 and self.chance.random() < 0.4:
                self.client.aimed_request()
        elif isinstance(step, Pause):
            self._finish_commit()
            for read in list(self._reads):
                self._advance(read)
        elif isinstance(step, PieceRead):
            if not self.is_quiet and self._left_at_copies > 0:
                # What is written next has been chosen already.
                self._left_at_copies -= 1
                self.chance.choice((self.client.aimed_request, self.client.restore_some))()
            step.run()
            if self.chance.random() < self.fails_copies:
                step.error = "is to fail"
        else:
            self.set_meanwhile(self._disturb)
            step.run()
            self.set_meanwhile(lambda: None)

    def _disturb(self) -> None:
        if self.is_quiet or self._left <= 0:
            return
        self._left -= 1
        actions: dict[Callable[[], None], float] = {
            self._nothing: 4,
            self.client.some_requests: 4,
            self.client.aimed_request: 4,
            self._begin_commit: 2,
            self._finish_commit: 2,
            self._begin_read: 2,
            self._advance_reads: 1,
            self.engine.flush.cancel: 0.3,
            self._kill: 0.3,
        }
        self.chance.choices(list(actions), list(actions.values()))[0]()

    def _nothing(self) -> None:
        pass

    def _kill(self) -> None:
        self.is_killed = True

    def _begin_commit(self) -> None:
        # Another one may run in a step's own commit already.
        if self._commit is None and not self.engine.failed:
            moment = self.client.freeze()
            commit = self.engine.freeze(is_awaited=self.chance.random() < 0.5)
            if commit is not None:
                self._commit = commit, moment

    def _finish_commit(self) -> None:
        if self._commit is None:
            return
        (commit, moment), self._commit = self._commit, None
        commit.run()
        self.engine.finish(commit)
        self.client.acknowledge(moment)

    def _begin_read(self) -> None:
        self._read_slowly(self.chance.randrange(len(self.engine.devices)))

    def _read_slowly(self, device: int) -> None:
        # All of it: what is fetched for one block may then be taken for another one.
        read = SlowRead(self.engine, device, 0, self.engine.devices[device].size_bytes)
        self.set_cold(True)
        read.ask()
        self.set_cold(False)
        if read.found is None:
            self._reads.append(read)
            if self.chance.random() < 0.5:
                read.advance()

    def _advance_reads(self) -> None:
        for read in list(self._reads):
            self._advance(read)

    def _advance(self, read: SlowRead) -> None:
        read.advance()
        if read.found is not None:
            self._reads.remove(read)
            self.client.check_read(read.device, read.offset, read.found)

    def _finish_reads(self) -> None:
        for read in list(self._reads):
            while read in self._reads:
                self._advance(read)


def random_order(chance: random.Random, names: Sequence[str]) -> FlushOrder:
    """Return an order with tiny batches; many flush everything, others a part, or some devices."""
    chosen = None
    if chance.random() < 0.2:
        chosen = frozenset(name for name in names if chance.random() < 0.5) or None
    batch = chance.choice((1, 2, 4, 64)) * BLOCK_SIZE
    kind = chance.random()
    if kind < 0.5:
        return FlushOrder(batch_bytes=batch, names=chosen)
    if kind < 0.65:
        return FlushOrder(copies=False, batch_bytes=batch, names=chosen)
    return FlushOrder(max_blocks=chance.randrange(1, 9), batch_bytes=batch, names=chosen)
