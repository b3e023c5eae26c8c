"""One seed of the simulation: record a session, make crash states, look into each distinct one.

What a state holds does not depend on how it came about, so each is opened once and judged as
often as it turns up. From some states the session goes on - after the power cut, or after a mere
kill with the page cache intact - and is cut again.
"""

import logging
import random
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.checker import Found, Layout, examine, judge_upstream
from tests.crash.crash_states import State, crash_states, fingerprint, fingerprint_of_metadata
from tests.crash.flush_session import FlushingSession
from tests.crash.history import History
from tests.crash.mutations import Mutation
from tests.crash.operations import DiskImage, Write
from tests.crash.recording import Recorder
from tests.crash.setting import BLOCK_SIZE, MEMORY, Setting
from tests.crash.size_mutations import MUTATIONS
from tests.crash.workload import LiveMismatchError
from tests.support.disk_model import DiskModel
from thincow.errors import ThincowError

_THOROUGH_EVERY = 16
_FLUSH_EVERY = 32
"""A part of the thorough ones."""
_STATES_PER_CUT = 3.0
"""How many distinct ones there are at an operation, about."""


@dataclass
class Result:
    """What one seed did. `failures` are lines that say what is wrong and where."""

    seed: int
    states: int = 0
    distinct: int = 0
    operations: int = 0
    failures: list[str] = field(default_factory=list)


class Simulation:
    """The simulation of one seed in an empty directory of its own.

    Args:
        seed: decides everything.
        root: the directory, best in memory.
        max_states: stop after so many distinct states.
        mutation: a bug to plant.
    """

    def __init__(
        self, seed: int, root: Path, max_states: int, mutation: Mutation | None = None
    ) -> None:
        self._setting = Setting.random(seed, root)
        self._plant = nullcontext
        if mutation is not None:
            self._setting = mutation.adapt(self._setting)
            self._plant = mutation.plant
        self._layout = Layout(root)
        self._random = random.Random(f"simulation {seed}")
        self._max_states = max_states
        self._known: dict[bytes, Found] = {}
        self._checked: set[bytes] = set()
        self.result = Result(seed)

    def run(self) -> Result:
        """Run until the states are used up, or the first failure."""
        setting = self._setting
        with setting.applied(), self._plant():
            image = DiskImage.of(setting.first_disk())
            history = History(DiskModel(setting.upstream, BLOCK_SIZE))
            recorder = self._record(image, history, first=True)
            if recorder is not None:
                self._cut(recorder, image, history, self._choose_recoveries(recorder))
        self.result.distinct = len(self._known)
        return self.result

    def _record(self, image: DiskImage, history: History, *, first: bool) -> Recorder | None:
        """Run a session on a disk; None when it failed without any cut."""
        self._layout.make(image.newest())
        recorder = Recorder(self._setting.root, image)
        session = FlushingSession(self._setting, recorder, history, self._random)
        if first and self._setting.fails_sync is not None:
            session.fail_a_sync(self._setting.fails_sync)
        try:
            session.run(self._setting.steps if first else self._setting.recovery_steps)
        except (LiveMismatchError, ThincowError, AssertionError) as error:
            self._fail(f"without a cut: {type(error).__name__}: {error}")
            return None
        return recorder

    def _choose_recoveries(self, recorder: Recorder) -> set[int]:
        """Choose where sessions go on from, half of them in the middle of a flush."""
        upstream = {file for name, file in recorder.names.items() if name.startswith("upstream/")}
        inside = [
            at
            for at, operation in enumerate(recorder.operations, 1)
            if isinstance(operation, Write) and operation.file in upstream
        ]
        half = self._setting.recoveries // 2
        return {
            *self._random.sample(range(len(recorder.operations)), half),
            *self._random.sample(inside, min(half, len(inside))),
        }

    def _cut(
        self, recorder: Recorder, image: DiskImage, history: History, recoveries: set[int]
    ) -> None:
        """Cut before each operation, and after the last one; at some of them when they are many."""
        image = image.copy()
        marks = [*recorder.marks, history.marks]
        # Half for the first session, the rest for those that follow a cut of it.
        budget = self._max_states / 2 / (1 if recoveries else max(1, self._setting.recoveries))
        share = budget / (_STATES_PER_CUT * len(marks))
        for at, mark in enumerate(marks):
            if at > 0:
                image.advance(recorder.operations[at - 1])
            self.result.operations += 1
            if at not in recoveries and self._random.random() > share:
                continue
            for state in crash_states(image, self._random, garbage=self._setting.garbage):
                where = f"operation {at} of {len(marks) - 1}"
                found = self._judge(state, image, history, mark, where)
                if found is None:
                    return
            if at in recoveries:
                self._recover(image, history, mark)
                if self.result.failures:
                    return

    def _judge(
        self, state: State, image: DiskImage, history: History, mark: tuple[int, int], where: str
    ) -> Found | None:
        """Look into a state; None when that is the end."""
        self.result.states += 1
        key = fingerprint(state)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self._max_states:
                return None
            self._layout.make(state)
            metadata = fingerprint_of_metadata(state)
            found = examine(
                self._setting,
                check=metadata not in self._checked,
                thorough=len(self._known) % _THOROUGH_EVERY == 0,
                flush=len(self._known) % _FLUSH_EVERY == 0,
            )
            self._known[key] = found
            self._checked.add(metadata)
        problem = found.problem
        if problem is None and found.contents is not None:
            problem = history.judge(found.contents, *mark)
            durable = image.durable("upstream/")
            problem = problem or judge_upstream(state, durable, found.marked)
        if problem is not None:
            self._fail(f"cut at {where}: {problem}")
            return None
        return found

    def _recover(self, image: DiskImage, history: History, mark: tuple[int, int]) -> None:
        """Go on after a power cut or a kill, and cut again."""
        if self._random.random() < 0.5:
            start = image.copy()
            upstream = {image.names[path] for path in image.durable("upstream/")}
            # After a failed sync of the store the next open drops what is in the page cache only.
            start.orphans = {file: lost for file, lost in start.orphans.items() if file in upstream}
        else:
            states = list(crash_states(image, self._random, garbage=self._setting.garbage))
            start = DiskImage.of(self._random.choice(states))
        found = self._judge(start.newest(), image, history, mark, "a second session")
        if found is None or found.contents is None:
            return
        if start.pending or start.pending_names:
            # A power cut may still take back what no commit has acknowledged.
            later = history.branch(found.contents, *mark)
        else:
            later = History(DiskModel(found.contents, BLOCK_SIZE))
        recorder = self._record(start, later, first=False)
        if recorder is not None:
            self._cut(recorder, start, later, set())

    def _fail(self, text: str) -> None:
        self.result.failures.append(f"seed {self._setting.seed}: {text}")


def simulate(seed: int, max_states: int, mutation: str | None = None) -> Result:
    """Run one seed in a directory in memory that is gone afterwards; log messages are dropped."""
    logging.disable()
    try:
        with tempfile.TemporaryDirectory(prefix="crashsim-", dir=MEMORY) as root:
            planted = None if mutation is None else MUTATIONS[mutation]
            return Simulation(seed, Path(root), max_states, planted).run()
    finally:
        logging.disable(logging.NOTSET)
