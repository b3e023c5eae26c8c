"""What a flush asks to be done between its steps, and what it works with."""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum

from thincow.engine.committer import Committer
from thincow.engine.contents import Contents
from thincow.engine.epoch import EpochParts
from thincow.engine.flush_source import Source
from thincow.engine.flush_write import BatchWrite, PieceRead, UpstreamResize
from thincow.store.connection import Connection
from thincow.store.disk import Disk


class Pause(Enum):
    """Steps that need no work object."""

    COMMIT = "commit everything changed so far"
    WAIT = "let requests go on for a moment"
    BETWEEN = "no batch has begun: the process may be stopped here"


Step = Pause | BatchWrite | PieceRead | UpstreamResize


@dataclass(slots=True)
class FlushTools:
    """The parts of an engine that a flush works with."""

    disk: Disk
    reader: Connection
    committer: Committer
    parts: EpochParts
    contents: Contents
    source: Source


def settle(tools: FlushTools) -> Generator[Step, None, None]:
    """Commit, and wait until no other commit is under way."""
    yield Pause.COMMIT
    while tools.committer.is_running:
        yield Pause.WAIT
