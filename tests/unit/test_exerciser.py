import random

import pytest

from tests.support.disk_model import DiskModel
from tests.support.exerciser import Exerciser, MismatchError
from tests.support.random_operations import Mix, make_contents

BLOCK = 512


class Plain:
    """A target that keeps what was synced and loses some of the rest in a kill."""

    def __init__(self, contents: list[bytes]) -> None:
        self.devices = [bytearray(content) for content in contents]
        self.synced = list(contents)
        self.random = random.Random(1)
        self.counts = dict.fromkeys(("read", "write", "truncate", "sync", "restart", "kill"), 0)

    def read(self, device: int, offset: int, length: int) -> bytes:
        self.counts["read"] += 1
        return bytes(self.devices[device][offset : offset + length])

    def write(self, device: int, offset: int, data: bytes) -> int:
        self.counts["write"] += 1
        content = self.devices[device]
        content.extend(bytes(max(0, offset - len(content))) if data else b"")
        content[offset : offset + len(data)] = data
        return len(data)

    def truncate(self, device: int, size: int) -> None:
        self.counts["truncate"] += 1
        content = self.devices[device]
        del content[size:]
        content.extend(bytes(size - len(content)))

    def size(self, device: int) -> int:
        return len(self.devices[device])

    def sync(self) -> None:
        self.counts["sync"] += 1
        self.synced = [bytes(device) for device in self.devices]

    def restart(self) -> None:
        self.counts["restart"] += 1
        self.synced = [bytes(device) for device in self.devices]

    def kill(self) -> None:
        self.counts["kill"] += 1
        for device, synced in zip(self.devices, self.synced, strict=True):
            if len(device) != len(synced):
                continue
            for offset in range(0, len(device), BLOCK):
                if self.random.random() < 0.5:
                    device[offset : offset + BLOCK] = synced[offset : offset + BLOCK]
        self.synced = [bytes(device) for device in self.devices]


class Tearing(Plain):
    """Loses the end of the last write in a kill, as when the kernel sends a write in parts."""

    def write(self, device: int, offset: int, data: bytes) -> int:
        self.synced = [bytes(content) for content in self.devices]
        taken = super().write(device, offset, data)
        if data:
            end = offset + self.random.randint(1, len(data))
            before = self.synced[device]
            self.synced[device] = bytes(self.devices[device][:end]) + before[end:]
        return taken

    def kill(self) -> None:
        self.counts["kill"] += 1
        self.devices = [bytearray(content) for content in self.synced]


MIX = Mix(sync=5, restart=3, kill=3)


def test_exerciser_is_content_with_a_right_target():
    contents = make_contents(1, BLOCK)
    target = Plain(contents)
    Exerciser(1, contents, BLOCK, target, MIX).run(3000)
    assert all(count > 30 for count in target.counts.values())


def test_exerciser_repeats_itself():
    runs = []
    for _ in range(2):
        contents = make_contents(2, BLOCK)
        target = Plain(contents)
        Exerciser(2, contents, BLOCK, target).run(500)
        runs.append([bytes(device) for device in target.devices])
    assert runs[0] == runs[1]


def test_exerciser_allows_for_split_writes_only_when_told_so():
    contents = make_contents(5, BLOCK)
    target = Tearing(contents)
    Exerciser(5, contents, BLOCK, target, MIX, splits_writes=True).run(3000)
    assert target.counts["kill"] > 30
    with pytest.raises(MismatchError, match="neither synced nor later"):
        Exerciser(5, contents, BLOCK, Tearing(contents), MIX).run(3000)


class Forgetful(Plain):
    def write(self, device: int, offset: int, data: bytes) -> int:
        taken = super().write(device, offset, data)
        if self.counts["write"] >= 100 and taken:
            self.devices[device][offset] ^= 1
        return taken


class Unsynced(Plain):
    def sync(self) -> None:
        self.counts["sync"] += 1


class Garbling(Plain):
    def kill(self) -> None:
        self.devices[0][5] ^= 255


class Crashing(Plain):
    def read(self, device: int, offset: int, length: int) -> bytes:
        raise OSError("broken")


class Modest(Plain):
    def write(self, device: int, offset: int, data: bytes) -> int:
        return super().write(device, offset, data) // 2


class Fixed(Plain):
    def truncate(self, device: int, size: int) -> None:
        pass


@pytest.mark.parametrize(
    ("broken", "mix", "words"),
    [
        (Forgetful, Mix(), "differs in block"),
        (Unsynced, MIX, "neither synced nor later"),
        (Garbling, MIX, "device 0 at 0 holds neither"),
        (Crashing, MIX, "raised OSError"),
        (Modest, MIX, "took"),
        (Fixed, MIX, " has "),
    ],
)
def test_exerciser_finds_a_wrong_target(broken, mix, words):
    contents = make_contents(3, BLOCK)
    with pytest.raises(MismatchError) as error:
        Exerciser(3, contents, BLOCK, broken(contents), mix).run(3000)
    text = str(error.value)
    assert text.startswith("seed 3, step ")
    assert words in text


def test_model_allows_any_content_since_the_last_sync_after_a_crash():
    model = DiskModel([b"a" * BLOCK * 2], BLOCK)
    for letter in (b"b", b"c"):
        model.write(0, 0, letter * BLOCK)
    assert model.adopt_after_crash(0, b"b" * BLOCK + b"a" * BLOCK) is None
    assert model.read(0, 0, 1) == b"b"
    model.sync()
    assert model.adopt_after_crash(0, b"c" * BLOCK + b"a" * BLOCK) == 0


def test_contents_have_all_kinds_of_ends_and_repetitions():
    contents = make_contents(4, BLOCK)
    assert len(contents[1]) == BLOCK * 3 // 2
    assert any(len(content) % BLOCK for content in contents)
    blocks = [contents[0][o : o + BLOCK] for o in range(0, len(contents[0]), BLOCK)]
    assert len(set(blocks)) < len(blocks)
    assert bytes(BLOCK) in blocks
