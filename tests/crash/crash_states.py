"""Chooses what of the unsynced operations a power cut leaves: the crash states of one moment."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import xxhash

from tests.crash.operations import Contents, DiskImage, Naming, Resize, Write

State = dict[str, bytes | None]
"""Path -> content; None for a directory."""

_CONTENTS = "data/cowdata"
_LABEL = "data/cowdata.id"
_SINGLED_OUT = 3
_RANDOM_SUBSETS = 2
_GARBAGE_SHARE = 0.1


def fingerprint(state: State) -> bytes:
    """Return a hash that tells states apart."""
    whole = xxhash.xxh3_128()
    for path in sorted(state):
        content = state[path]
        whole.update(path.encode())
        whole.update(b"directory" if content is None else xxhash.xxh3_128_digest(content))
    return whole.digest()


def fingerprint_of_metadata(state: State) -> bytes:
    """Return a hash of all that a check of the metadata looks at: of `cowdata` only the size."""
    contents = state.get(_CONTENTS) or b""
    store = {path: part for path, part in state.items() if not path.startswith("upstream/")}
    return fingerprint(store | {_CONTENTS: str(len(contents)).encode(), _LABEL: b""})


@dataclass(frozen=True, slots=True)
class Choice:
    """What survives: contents by file, and names; in the order in which they were done."""

    contents: dict[int, list[Contents]]
    names: list[Naming]


def crash_states(image: DiskImage, generator: random.Random, *, garbage: bool) -> Iterator[State]:
    """Yield states that a power cut may leave now; the same one more than once at times.

    Args:
        image: the disk at this moment.
        generator: decides what is chosen.
        garbage: whether sectors on their way to the disk may hold anything afterwards.
    """
    for choice in _choices(image, generator, garbage):
        yield _make(image, choice)


def _choices(image: DiskImage, generator: random.Random, garbage: bool) -> Iterator[Choice]:
    waiting: list[Contents | Naming] = []
    for file in image.orphans.keys() | image.pending.keys():
        waiting += image.orphans.get(file, ())
        waiting += image.pending.get(file, ())
    waiting += image.pending_names
    yield _choice([])
    if not waiting:
        return
    yield _choice(waiting)
    every = range(len(waiting))
    for index in _sample(generator, every):
        yield _choice([waiting[index]])
        yield _choice([*waiting[:index], *waiting[index + 1 :]])
    files = list(image.pending)
    if len(files) > 1:
        only = generator.choice(files)
        yield _choice([*image.pending[only], *image.pending_names])
        yield _choice([part for part in waiting if getattr(part, "file", None) != only])
    for _ in range(_RANDOM_SUBSETS):
        share = generator.random()
        kept = [part for part in waiting if generator.random() < share]
        yield _choice(_tear(kept, generator, garbage))


def _sample(generator: random.Random, indexes: range) -> Sequence[int]:
    """Choose some, the newest always among them: that one is what this moment adds."""
    chosen = {indexes[-1]}
    while len(chosen) < min(_SINGLED_OUT, len(indexes)):
        chosen.add(generator.choice(indexes))
    return sorted(chosen)


def _choice(parts: Sequence[Contents | Naming]) -> Choice:
    contents: dict[int, list[Contents]] = {}
    names: list[Naming] = []
    for part in parts:
        if hasattr(part, "path"):
            names.append(part)
        else:
            contents.setdefault(part.file, []).append(part)
    return Choice(contents, names)


def _tear(
    parts: Sequence[Contents | Naming], generator: random.Random, garbage: bool
) -> list[Contents | Naming]:
    """Do writes in part only: sectors missing or full of garbage, or just the size."""
    torn: list[Contents | Naming] = []
    for part in parts:
        if not isinstance(part, Write) or generator.random() < 0.5:
            torn.append(part)
            continue
        if generator.random() < 0.3:
            torn.append(Grown(part.file, part.offset + len(part.data)))
        for sector in part.sectors():
            fate = generator.random()
            if garbage and fate < _GARBAGE_SHARE:
                noise = generator.randbytes(len(sector.data))
                torn.append(Write(sector.file, sector.offset, noise))
            elif fate < 0.6:
                torn.append(sector)
    if generator.random() < 0.2:
        generator.shuffle(torn)
    return torn


class Grown(Resize):
    """The size of a write that arrived without its contents."""

    def apply(self, content: bytearray) -> None:
        if len(content) < self.size:
            super().apply(content)


def _make(image: DiskImage, choice: Choice) -> State:
    names = dict(image.names)
    for operation in choice.names:
        operation.apply(names)
    state: State = {}
    for path in sorted(names):
        file = names[path]
        parent = path.rpartition("/")[0]
        if parent and parent not in state:
            continue  # the name of its directory was lost
        if file is None:
            state[path] = None
        elif file in choice.contents:
            state[path] = image.content(file, choice.contents[file])
        else:
            state[path] = image.files.get(file, b"")
    return state
