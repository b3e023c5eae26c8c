"""Compares a target (the engine, or a real mount) with a plain model of the same devices.

`Exerciser` applies seeded random operations to both, and fails with the seed and the step when
they differ.

    exerciser = Exerciser(seed, contents, block_size, target)
    exerciser.run(10_000)
"""

from collections.abc import Sequence
from typing import Protocol

from tests.support.disk_model import DiskModel
from tests.support.random_operations import Mix, Operation, OperationGenerator


class Target(Protocol):
    """What is compared with the model. Devices are numbered as in the given contents."""

    def read(self, device: int, offset: int, length: int) -> bytes:
        """Return the bytes; cut at the end of the device."""

    def write(self, device: int, offset: int, data: bytes) -> int:
        """Write, also past the end, and return how many bytes were taken."""

    def truncate(self, device: int, size: int) -> None:
        """Give a device another size."""

    def size(self, device: int) -> int:
        """Return the size of a device."""

    def sync(self) -> None:
        """Make all writes durable."""

    def restart(self) -> None:
        """Close properly and open again."""

    def kill(self) -> None:
        """End as by SIGKILL and open again; only called when kills are wanted."""


class MismatchError(AssertionError):
    """Raised when target and model differ; the text names seed, step and the last operations."""


class Exerciser:
    """Applies random operations to a target and compares it with the model.

    Args:
        seed: decides everything.
        contents: what the devices hold at first.
        block_size: in bytes.
        target: what is put to the test; it holds `contents`.
        mix: how often each kind of operation comes.
        splits_writes: whether a write may reach the target in parts, see `DiskModel`.
    """

    def __init__(
        self,
        seed: int,
        contents: Sequence[bytes],
        block_size: int,
        target: Target,
        mix: Mix | None = None,
        splits_writes: bool = False,
    ) -> None:
        self.seed = seed
        self.model = DiskModel(contents, block_size, splits_writes)
        self.target = target
        self.step = 0
        self._generator = OperationGenerator(seed, self.model, mix or Mix())
        self._recent: list[str] = []

    def run(self, operations: int) -> None:
        """Do a number of operations, then compare everything.

        Raises:
            MismatchError: when the target does not do what the model does.
        """
        print(f"seed {self.seed}")
        for _ in range(operations):
            self.apply(self._generator.next_operation())
        self.compare_all()

    def apply(self, operation: Operation) -> None:
        """Do one operation on both and compare the outcome."""
        self.step += 1
        self._recent = [*self._recent[-9:], f"  {self.step}: {operation}"]
        try:
            self._apply(operation)
        except MismatchError:
            raise
        except Exception as error:
            raise self._mismatch(f"raised {error!r}") from error

    def compare_all(self) -> None:
        """Compare the whole content of every device."""
        for device in range(len(self.model.devices)):
            size = self.model.size(device)
            if self.target.size(device) != size:
                raise self._mismatch(f"device {device} has {self.target.size(device)}, not {size}")
            found = self._read_whole(device, size)
            self._compare(device, 0, self.model.read(device, 0, self.model.size(device)), found)

    def _apply(self, operation: Operation) -> None:
        device, offset = operation.device, operation.offset
        if operation.kind == "read":
            found = bytes(self.target.read(device, offset, operation.length))
            self._compare(device, offset, self.model.read(device, offset, operation.length), found)
        elif operation.kind == "write":
            taken = self.target.write(device, offset, operation.data)
            expected = self.model.write(device, offset, operation.data)
            if taken != expected:
                raise self._mismatch(f"took {taken} bytes, not {expected}")
        elif operation.kind == "truncate":
            self.target.truncate(device, operation.length)
            self.model.truncate(device, operation.length)
        elif operation.kind == "kill":
            self.target.kill()
            for number in range(len(self.model.devices)):
                size = self.target.size(number)
                at = self.model.adopt_after_crash(number, self._read_whole(number, size))
                if at is not None:
                    raise self._mismatch(
                        f"device {number} at {at} holds neither synced nor later content"
                    )
            self.model.sync()
        else:
            self.target.sync() if operation.kind == "sync" else self.target.restart()
            self.model.sync()
            if operation.kind == "restart":
                self.compare_all()

    def _read_whole(self, device: int, size: int) -> bytes:
        found = bytes(self.target.read(device, 0, size))
        if len(found) != size:
            raise self._mismatch(f"device {device} gave {len(found)} bytes of {size}")
        return found

    def _compare(self, device: int, offset: int, expected: bytes, found: bytes) -> None:
        if found == expected:
            return
        if len(found) != len(expected):
            raise self._mismatch(f"read {len(found)} bytes, not {len(expected)}")
        first = next(
            n for n, pair in enumerate(zip(expected, found, strict=True)) if len({*pair}) > 1
        )
        block, within = divmod(offset + first, self.model.block_size)
        raise self._mismatch(f"device {device} differs in block {block} at its byte {within}")

    def _mismatch(self, what: str) -> MismatchError:
        recent = "\n".join(self._recent)
        return MismatchError(f"seed {self.seed}, step {self.step}: {what}; last steps:\n{recent}")
