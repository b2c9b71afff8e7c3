"""What launchers of devices share: an engine and its contexts, over a small driver.

Weights are uploaded once. A session has an arena, a state block and a queue of its own on the
device; a token is a list of launches that was bound to these addresses before, and one read: the
logits. A driver knows its API and nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launches import LOCKS, WORKSPACE, Launch, read_launches
from firstlight.runtime.manifest import Manifest, malformed
from firstlight.runtime.program import ARENA, STATE, WEIGHT, Program
from firstlight.runtime.safetensors import SafetensorsFile
from firstlight.runtime.sizes import COUNT, value

Memory = Any
"""A driver's handle of memory on the device."""
Function = Any
"""A driver's handle of a function on the device."""
Bytes = npt.NDArray[np.uint8]
KEPT = 8
"""Lists of launches that a session keeps bound, for as many numbers of tokens."""
MOST_GROUPS = (1 << 31) - 1


class DeviceError(Exception):
    """What a driver raises when the device refuses or fails; its text is the reason."""


@dataclass(frozen=True)
class Pointer:
    """An address: byte ``offset`` (a multiple of 64) of some memory."""

    memory: Memory
    offset: int = 0


@dataclass(frozen=True)
class Call:
    """One launch with everything known: groups, threads of a group, arguments in order.

    ``locks`` bytes at the pointer ``lock`` are zero when it begins; only a driver with
    ``clears_locks`` is asked for that.
    """

    function: Function
    grid: tuple[int, ...]
    group: tuple[int, ...]
    shared: int
    args: tuple[Pointer | int, ...]
    lock: Pointer | None = None
    locks: int = 0


class Queue(Protocol):
    """The work of one session: in order, and used by one thread at a time."""

    def allocate(self, nbytes: int) -> Memory:
        """Memory that reads as zeros, aligned to 64 bytes; it goes when the handle does.

        Raises DeviceError if there is none.
        """

    def write(self, memory: Memory, offset: int, data: Bytes) -> None:
        """Copy to the device. ``data`` must not change before the next ``read`` or ``finish``."""

    def read(self, memory: Memory, offset: int, out: Bytes) -> None:
        """Wait for all work given before, then copy from the device. Raises DeviceError."""

    def finish(self) -> None:
        """Wait for all work given before. Raises DeviceError."""

    def bind(self, calls: Sequence[Call]) -> Any:
        """Make a list of launches ready to be given again and again."""

    def run(self, bound: Any) -> None:
        """Give what ``bind`` made to the device; need not wait. Raises DeviceError."""


class Driver(Protocol):
    """A device and its code. Functions are shared by all queues and their threads."""

    units: int
    """Processors of the device, told as the model's ``threads``."""

    def load(self, path: Path, entries: Sequence[str]) -> Mapping[str, Function]:
        """The functions of a file of device code. Raises FirstlightError F517."""

    def queue(self) -> Queue:
        """A new queue."""

    def flops(self, repeats: int) -> float:
        """Float32 operations per second of multiply-adds, the best of several; NaN if unknown."""

    def close(self) -> None:
        """Give the device back. No queue may be working."""


class DeviceEngine:
    """Code and weights of one artifact on one device; see ``engine.Engine``."""

    def __init__(self, manifest: Manifest, program: Program, driver: Driver) -> None:
        self.manifest, self.program, self.driver = manifest, program, driver
        self.threads = driver.units
        try:
            self.table = table = read_launches(manifest, program)
            self.locks = 8 * max((launch.locks for kernel in table.kernels.values()
                                  for launch in kernel.launches), default=0)  # fmt: skip
            if self.locks and not getattr(driver, "clears_locks", False):
                raise malformed(manifest.directory, "its kernels need locks, which the launcher of "
                                "this device has not")  # fmt: skip
            self._functions = [driver.load(manifest.path(path), table.entries(number))
                               for number, path in enumerate(table.modules)]  # fmt: skip
            self.weights = self._upload()
        except BaseException:
            driver.close()
            raise

    def context(self) -> DeviceContext:
        """Memory for a new sequence. Raises F514 if the device has none."""
        return DeviceContext(self)

    def function(self, launch: Launch) -> Function:
        """The function of a launch."""
        return self._functions[launch.module][launch.entry]

    def read_bandwidth(self, nbytes: int = 1 << 28, repeats: int = 5) -> float:
        """Bytes per second that the host reads from the device, the best of several."""
        queue = self.driver.queue()
        memory, out = _memory(queue, nbytes, "a buffer to read"), np.empty(nbytes, np.uint8)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            queue.read(memory, 0, out)
            best = min(best, time.perf_counter() - start)
        return nbytes / best

    def flops(self, repeats: int = 5) -> float:
        """Float32 operations per second, as the driver measures them."""
        return self.driver.flops(repeats)

    def close(self) -> None:
        """Free the weights and give the device back."""
        self.weights = []
        self.driver.close()

    def _upload(self) -> list[Pointer]:
        """Every weight in memory of its own: devices limit a single allocation."""
        queue = self.driver.queue()
        files: dict[str, SafetensorsFile] = {}
        weights = []
        for file, name in self.program.weights:
            if file not in files:
                files[file] = SafetensorsFile(self.manifest.path(file), "F5")
            source = files[file]
            if name not in source.tensors:
                raise malformed(source.path, f"it has no tensor {name}, which program.json uses")
            data = source.array(source.tensors[name]).reshape(-1).view(np.uint8)
            weights.append(Pointer(_memory(queue, data.size, f"weight {name}")))
            if data.size:
                queue.write(weights[-1].memory, 0, data)
                queue.finish()
        return weights


class DeviceContext:
    """State block, arena and bound launches of one sequence. Not for two threads at once."""

    def __init__(self, engine: DeviceEngine) -> None:
        self.position = 0
        self._engine = engine
        self._queue = queue = engine.driver.queue()
        self._arena = _memory(queue, engine.program.arena_bytes, "the arena")
        self._state = _memory(queue, engine.manifest.state_bytes, "the state of a session")
        self._workspace, self._room = _memory(queue, 64, "a workspace"), 64
        self._locks = Pointer(_memory(queue, engine.locks, "locks")) if engine.locks else None
        self._bound: dict[tuple[str, int], Any] = {}
        self._inputs: list[Bytes] = []

    def run(
        self, entry: str, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]
    ) -> None:
        """Feed ``tokens`` [S] and fill ``logits`` [1 or S, vocab]; see ``engine.Context``."""
        plan = self._engine.program.entries[entry]
        try:
            bound = self._prepared(entry, len(tokens))
            self._set_inputs(entry, tokens)
            self._queue.run(bound)
            self._queue.read(self._arena, plan.logits, logits.reshape(-1).view(np.uint8))
        except DeviceError as error:
            raise self._failed(f"the kernels of {entry} failed", error) from error
        self.position += len(tokens)

    def steps(self, entry: str, tokens: npt.NDArray[np.int32]) -> Iterator[int]:
        """Feed ``tokens`` [S] step by step; see ``trace.SteppingContext``."""
        plan, program = self._engine.program.entries[entry], self._engine.program
        self._set_inputs(entry, tokens)
        for step in range(plan.kernel.size):
            try:
                self._queue.run(self._queue.bind(self._calls(entry, len(tokens), [step])))
                self._queue.finish()
            except DeviceError as error:
                kernel = program.kernels[int(plan.kernel[step])]
                what = f"kernel {kernel} failed (step {step} of {entry})"
                raise self._failed(what, error) from error
            yield step
        self.position += len(tokens)

    def arena(self, offset: int, nbytes: int) -> Bytes:
        """A copy of a part of the arena."""
        return self._read(self._arena, offset, nbytes)

    def write_arena(self, offset: int, data: Bytes) -> None:
        """Replace a part of the arena."""
        if data.size:
            try:
                self._queue.write(self._arena, offset, np.ascontiguousarray(data))
                self._queue.finish()
            except DeviceError as error:
                raise self._failed("the arena cannot be written", error) from error

    def read_state(self, offset: int, nbytes: int) -> Bytes:
        """A copy of a part of the state block."""
        return self._read(self._state, offset, nbytes)

    def write_state(self, offset: int, data: Bytes) -> None:
        """Replace a part of the state block."""
        if data.size:
            try:
                self._queue.write(self._state, offset, np.ascontiguousarray(data))
                self._queue.finish()
            except DeviceError as error:
                raise self._failed("the state cannot be written", error) from error

    def _read(self, memory: Memory, offset: int, nbytes: int) -> Bytes:
        out = np.empty(nbytes, np.uint8)
        if nbytes:
            try:
                self._queue.read(memory, offset, out)
            except DeviceError as error:
                raise self._failed("the device's memory cannot be read", error) from error
        return out

    def _set_inputs(self, entry: str, tokens: npt.NDArray[np.int32]) -> None:
        values = {"tokens": tokens, "pos": [self.position], "last": [len(tokens) - 1], "slot": [0]}
        # kept until the next call: a write may still read them
        self._inputs = []
        for name, offset in self._engine.program.entries[entry].inputs.items():
            self._inputs.append(np.array(values[name], np.int32).view(np.uint8))
            self._queue.write(self._arena, offset, self._inputs[-1])

    def _prepared(self, entry: str, tokens: int) -> Any:
        """The launches of a call, bound to this session's memory."""
        key = entry, tokens
        if key not in self._bound:
            steps = range(self._engine.program.entries[entry].kernel.size)
            calls = self._calls(entry, tokens, steps)
            while len(self._bound) >= KEPT:
                del self._bound[next(iter(self._bound))]
            self._bound[key] = self._queue.bind(calls)
        return self._bound[key]

    def _calls(self, entry: str, tokens: int, steps: Sequence[int]) -> list[Call]:
        engine, plan = self._engine, self._engine.program.entries[entry]
        kernels = [engine.table.kernels[engine.program.kernels[int(plan.kernel[s])]] for s in steps]
        self._make_room(max((value(k.workspace, tokens) for k in kernels), default=0))
        calls = []
        for step, kernel in zip(steps, kernels, strict=True):
            words = slice(int(plan.first[step]), int(plan.first[step] + plan.count[step]) - 1)
            pointers = [self._pointer(int(space), int(number)) for space, number in
                        zip(plan.space[words], plan.value[words], strict=True)]  # fmt: skip
            given: dict[int | str, Pointer | int] = {
                **dict(enumerate(pointers)), WORKSPACE: Pointer(self._workspace), COUNT: tokens
            }  # fmt: skip
            if self._locks:
                given[LOCKS] = self._locks
            for launch in kernel.launches:
                grid = tuple(value(n, tokens) for n in launch.grid)
                if max(grid) > MOST_GROUPS:
                    raise DeviceError(f"{launch.entry} wants {grid} groups")
                if min(grid) > 0:  # fewer tokens than a block: there is nothing to do
                    lock = self._locks if launch.locks else None
                    calls.append(Call(engine.function(launch), grid, launch.group, launch.shared,
                                      tuple(given[a] for a in launch.args), lock,
                                      8 * launch.locks))  # fmt: skip
        return calls

    def _make_room(self, nbytes: int) -> None:
        if nbytes > self._room:
            self._bound.clear()
            self._workspace = _memory(self._queue, nbytes, "a workspace")
            self._room = nbytes

    def _pointer(self, space: int, number: int) -> Pointer:
        if space == WEIGHT:
            return self._engine.weights[number]
        return Pointer({ARENA: self._arena, STATE: self._state}[space], number)

    def _failed(self, what: str, error: DeviceError) -> FirstlightError:
        return FirstlightError(
            "F611",
            what,
            where=f"position {self.position}",
            why=str(error) or "the driver gave no reason",
            try_="start a new session, with fewer others if memory is short",
        )


def _memory(queue: Queue, nbytes: int, purpose: str) -> Memory:
    try:
        return queue.allocate(max(nbytes, 64))
    except DeviceError as error:
        raise FirstlightError(
            "F514",
            f"there is no memory for {purpose} ({nbytes} bytes)",
            where="the device",
            why=str(error) or "it refused to reserve it",
            try_="close other sessions, or compile with a smaller --context or --chunk",
        ) from error
