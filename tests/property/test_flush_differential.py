"""Flushes through the engine against a plain model: moved, mixed and rewritten blocks.

A client reads and writes between every two steps of a batch, aimed at what is being flushed. The
virtual devices must be right at every moment, and upstream equal to them at the end.
"""

import errno
import os
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from tests.support.engines import BLOCK, EngineStore, NewStore
from thincow.engine.flush import Flush
from thincow.engine.flush_order import FlushOrder
from thincow.engine.options import Tuning
from thincow.errors import FlushError, NoSpaceError
from thincow.store.disk import Disk

CASES = int(os.environ.get("THINCOW_FLUSH_CASES", "200"))
"""Set the variable to a few thousand for a longer run: 20 cases take about a second."""
CLIENT_STEPS = 60
"""More would keep a full flush from ever ending: it goes on until nothing is dirty."""

MOVES: dict[str, Callable[[random.Random, list[bytes]], list[bytes]]] = {
    "shifted": lambda chance, old: [chance.randbytes(BLOCK), *old[:-1]],
    "shifted back": lambda chance, old: [*old[1:], chance.randbytes(BLOCK)],
    "reversed": lambda _, old: old[::-1],
    "rotated": lambda chance, old: (at := chance.randrange(1, len(old))) and old[at:] + old[:at],
    "permuted": lambda chance, old: chance.sample(old, len(old)),
    "duplicated": lambda chance, old: chance.choices(old, k=len(old)),
    "mixed": lambda chance, old: [
        chance.choice([block, chance.randbytes(BLOCK), bytes(BLOCK)]) for block in old
    ],
}


class FailingDisk(Disk):
    """Some reads fail while `fails`."""

    def __init__(self, chance: random.Random) -> None:
        self.fails = False
        self._chance = chance

    def read(self, fd: int, length: int, offset: int) -> bytes:
        if self.fails and self._chance.random() < 0.2:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(fd, length, offset)


@dataclass
class Case:
    """A store with moved blocks, and what its devices must show."""

    chance: random.Random
    store: EngineStore
    shown: dict[str, bytearray] = field(default_factory=dict)
    disk: "FailingDisk" = field(init=False)

    def __post_init__(self) -> None:
        self.disk = FailingDisk(self.chance)

    def make(self) -> None:
        for name in self.chance.choice(("a", "ab", "abc")):
            size = int(BLOCK * self.chance.choice((8, 16, 33, 40.5)))
            alphabet = [self.chance.randbytes(BLOCK) for _ in range(4)]
            blocks = [
                self.chance.choice([*alphabet, bytes(BLOCK), self.chance.randbytes(BLOCK)])
                for _ in range(41)
            ]
            self.store.add(name, b"".join(blocks)[:size])
            self.shown[name] = bytearray(b"".join(blocks)[:size])

    def open(self, **options: object) -> None:
        tuning = Tuning(
            window_blocks=self.chance.choice((4, 16, 4096)),
            cached_windows=(windows := self.chance.choice((1, 3, 100))),
            commit_staged_hashes=3 * windows,
            max_waiting_hints=5 * windows,
            max_reserve_bytes=4096,
        )
        self.store.disk = self.disk
        self.store.open(
            tuning=tuning,
            hash_table_bytes=self.chance.choice((256, 1 << 20)),
            checksum_bits=self.chance.choice((None, 16)),
            **options,
        )

    def write(self, name: str, offset: int, data: bytes) -> None:
        taken = self.store.write(name, offset, data)
        self.shown[name][offset : offset + taken] = data[:taken]

    def move(self, how: str) -> None:
        for name, content in list(self.shown.items()):
            self.store.read(name)
            old = [bytes(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK)]
            new = MOVES[how](self.chance, [block.ljust(BLOCK, b"\0") for block in old])
            order = list(range(len(new)))
            if self.chance.random() < 0.5:
                self.chance.shuffle(order)
            for index in order:
                self.write(name, index * BLOCK, new[index])

    def swap(self) -> None:
        before = {name: bytes(content) for name, content in self.shown.items()}
        names = sorted(before)
        for name, other in zip(names, [*names[1:], names[0]], strict=True):
            self.write(name, 0, before[other])

    def disturb(self) -> None:
        """Do what a client does at the worst moment."""
        name = self.chance.choice(sorted(self.shown))
        size = len(self.shown[name])
        offset = self.chance.randrange(size) // BLOCK * BLOCK
        kind = self.chance.randrange(6)
        if kind == 0:
            self.write(name, offset, self.chance.randbytes(BLOCK))
        elif kind == 1:
            upstream = (self.store.upstream_dir / name).read_bytes()
            self.write(name, offset, upstream[offset : offset + BLOCK])
        elif kind == 2:
            other = self.chance.choice(sorted(self.shown))
            start = self.chance.randrange(len(self.shown[other])) // BLOCK * BLOCK
            self.write(name, offset, bytes(self.shown[other][start : start + BLOCK]))
        elif kind == 3:
            self.write(name, offset, bytes(self.shown[name][offset : offset + 2 * BLOCK]))
        else:
            expected = bytes(self.shown[name][offset : offset + 4 * BLOCK])
            assert self.store.read(name, offset, 4 * BLOCK) == expected

    def flush(self, order: FlushOrder, *, disturbed: bool = False) -> Flush:
        """Flush, with a client that is at work before each of the first steps."""
        client_steps = CLIENT_STEPS if disturbed else 0

        def client() -> None:
            nonlocal client_steps
            if client_steps:
                client_steps -= 1
                self.disturb()

        return self.store.engine.flush.run(order, client)

    def check_shown(self) -> None:
        for name, content in self.shown.items():
            assert self.store.read(name) == bytes(content)

    def check_flushed(self) -> None:
        self.check_shown()
        assert self.store.engine.status() == "clean"
        assert self.store.engine.cow_usage()[2:] == (0, 0)
        for name, content in self.shown.items():
            assert (self.store.upstream_dir / name).read_bytes() == bytes(content)


def make_case(seed: int, new_store: NewStore) -> tuple[Case, FlushOrder]:
    print(f"seed {seed}")
    chance = random.Random(seed)
    case = Case(chance, new_store())
    case.make()
    case.open()
    how = chance.choice([*MOVES, "swapped"])
    if how == "swapped":
        case.swap()
    else:
        case.move(how)
    return case, FlushOrder(batch_bytes=chance.choice((BLOCK, 4 * BLOCK, 1 << 20)))


@pytest.mark.parametrize("seed", range(CASES))
def test_flush_beside_a_client_ends_with_upstream_equal(seed: int, new_store: NewStore) -> None:
    case, order = make_case(seed, new_store)
    if case.chance.random() < 0.3:
        limit = case.chance.randrange(1, 9)
        part = FlushOrder(max_blocks=limit, batch_bytes=order.batch_bytes)
        assert case.flush(part).done <= limit
        case.check_shown()
        case.store.close()
        case.open()
    case.flush(order, disturbed=True)
    case.check_shown()
    case.flush(order)
    case.check_flushed()
    case.store.close()
    assert case.store.cowdata.stat().st_size == 0
    case.open()
    case.check_flushed()


@pytest.mark.parametrize("seed", range(CASES, CASES + CASES // 3))
def test_flush_with_one_spare_block_finishes(seed: int, new_store: NewStore) -> None:
    case, order = make_case(seed, new_store)
    case.store.engine.commit()
    end = case.store.engine.cow_usage()[0]
    case.store.close()
    case.open(max_cow_blocks=end + 1)
    case.flush(order)
    case.check_flushed()


@pytest.mark.parametrize("seed", range(2 * CASES, 2 * CASES + CASES // 8))
def test_flush_with_next_to_no_space_beside_a_client_and_bad_reads(
    seed: int, new_store: NewStore
) -> None:
    case, order = make_case(seed, new_store)
    case.store.engine.commit()
    end = case.store.engine.cow_usage()[0]
    case.store.close()
    case.open(max_cow_blocks=end + case.chance.choice((0, 1, 2)))
    left = CLIENT_STEPS

    def client() -> None:
        nonlocal left
        case.disk.fails = False
        if left:
            left -= 1
            with suppress(NoSpaceError):
                case.disturb()
        # From here on the flush reads.
        case.disk.fails = case.chance.random() < 0.5

    for _ in range(2):
        with suppress(FlushError):
            case.store.engine.flush.run(order, client)
        case.disk.fails = False
        case.check_shown()
    case.store.engine.commit()
    end = case.store.engine.cow_usage()[0]
    case.store.close()
    case.open(max_cow_blocks=end + 1)
    case.check_shown()
    case.flush(order)
    case.check_flushed()


def test_flush_of_a_cycle_without_any_space_says_so(new_store: NewStore) -> None:
    case = Case(random.Random(1), new_store())
    for name in "ab":
        content = case.chance.randbytes(4 * BLOCK)
        case.store.add(name, content)
        case.shown[name] = bytearray(content)
    case.open(max_cow_blocks=0)
    for name in "ab":
        case.store.read(name)
    case.swap()
    with pytest.raises((FlushError, NoSpaceError), match="space"):
        case.flush(FlushOrder())
    case.check_shown()
    assert case.store.engine.status().startswith("error\n")


def test_pass_without_copies_stops_at_cycles(new_store: NewStore) -> None:
    case = Case(random.Random(2), new_store())
    for name in "ab":
        content = case.chance.randbytes(4 * BLOCK)
        case.store.add(name, content)
        case.shown[name] = bytearray(content)
    case.open()
    for name in "ab":
        case.store.read(name, 0, 2 * BLOCK)
    before = {name: bytes(content) for name, content in case.shown.items()}
    case.write("a", 0, before["b"][: 2 * BLOCK] + case.chance.randbytes(2 * BLOCK))
    case.write("b", 0, before["a"][: 2 * BLOCK])
    assert case.flush(FlushOrder(copies=False)).done == 2
    assert case.store.engine.status() == "ready"
    case.check_shown()
    case.flush(FlushOrder())
    case.check_flushed()
