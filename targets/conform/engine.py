"""An artifact run by the kernels' executor: whole models on chips that only an emulator knows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from firstlight.codegen.target import Executor
from firstlight.runtime.manifest import Manifest
from firstlight.runtime.model import Model
from firstlight.runtime.program import ARENA, STATE, TOKENS, WEIGHT, Entry, Program, read_program
from firstlight.runtime.safetensors import SafetensorsFile
from firstlight.runtime.sizes import value
from firstlight.targets.conform.data import Array

ALIGN = 64


def emulated_model(manifest: Manifest, executor: Executor) -> Model:
    """An artifact as `firstlight.runtime.load` gives it, whose kernels `executor` calls."""
    program = read_program(manifest)
    return Model(manifest, program, ExecutorEngine(manifest, program, executor))


class ExecutorEngine:
    """A `firstlight.runtime.engine.Engine` for running, not for measuring.

    Every kernel gets buffers of exactly the bytes that its signature says.
    """

    threads = 1

    def __init__(self, manifest: Manifest, program: Program, executor: Executor) -> None:
        self.program, self.executor = program, executor
        self.state_bytes = manifest.state_bytes
        files = {file: SafetensorsFile(manifest.path(file), "F5") for file, _ in program.weights}
        self.weights = [files[file].raw(files[file].tensors[name])
                        for file, name in program.weights]

    def context(self) -> ExecutorContext:
        """Memory for a new sequence."""
        return ExecutorContext(self)

    def close(self) -> None:
        """The executor goes with its last user."""


class ExecutorContext:
    """A `firstlight.runtime.engine.Context` that can also be traced step by step."""

    def __init__(self, engine: ExecutorEngine) -> None:
        self.engine, self.position = engine, 0
        self._blocks = {ARENA: _zeros(engine.program.arena_bytes),
                        STATE: _zeros(engine.state_bytes)}

    def run(self, entry: str, tokens: Array, logits: Array) -> None:
        """Feed tokens [S]; see `Context.run`."""
        for _ in self.steps(entry, tokens):
            pass
        plan = self.engine.program.entries[entry]
        logits[...] = self.arena(plan.logits, logits.nbytes).view(np.float32).reshape(logits.shape)

    def steps(self, entry: str, tokens: Array) -> Iterator[int]:
        """Feed tokens [S] step by step; see `firstlight.runtime.trace.SteppingContext`."""
        plan, program = self.engine.program.entries[entry], self.engine.program
        inputs = {"tokens": tokens, "pos": [self.position], "slot": [0], "last": [len(tokens) - 1]}
        for name, offset in plan.inputs.items():
            given = np.asarray(inputs[name], np.int32)
            self.arena(offset, given.nbytes)[...] = given.view(np.uint8)
        for step, kernel in enumerate(plan.kernel.tolist()):
            buffers = self._buffers(plan, step, program.signatures[kernel], len(tokens))
            self.engine.executor.run(program.kernels[kernel], buffers, len(tokens))
            yield step
        self.position += len(tokens)

    def arena(self, offset: int, nbytes: int) -> Array:
        """A view of a part of the arena."""
        return self._blocks[ARENA][offset : offset + nbytes]

    def write_arena(self, offset: int, data: Array) -> None:
        """Replace a part of the arena."""
        self.arena(offset, data.size)[...] = data

    def read_state(self, offset: int, nbytes: int) -> Array:
        """A view of a part of the state block."""
        return self._blocks[STATE][offset : offset + nbytes]

    def write_state(self, offset: int, data: Array) -> None:
        """Replace a part of the state block."""
        self._blocks[STATE][offset : offset + data.size] = data

    def _buffers(self, entry: Entry, step: int, signature: tuple[object, ...],
                 tokens: int) -> list[Array]:
        words = slice(int(entry.first[step]), int(entry.first[step] + entry.count[step]))
        out = []
        for space, offset, size in zip(entry.space[words].tolist(), entry.value[words].tolist(),
                                       signature, strict=True):
            if space == WEIGHT:
                weight = self.engine.weights[offset]
                assert weight.size == value(size, tokens), "a weight is as long as it is read"
                out.append(weight)
            elif space != TOKENS:
                out.append(self._blocks[space][offset : offset + value(size, tokens)])
        return out


def _zeros(nbytes: int) -> Array:
    room = np.zeros(nbytes + ALIGN, np.uint8)
    start = -room.ctypes.data % ALIGN
    return room[start : start + nbytes]
