"""The IR's own meaning: the module an artifact was compiled from, op by op in numpy."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight import targets
from firstlight.codegen.compile import CompileOptions, meaning, prepare
from firstlight.comparison.side import RETURN, Array, Event, Key, numbered
from firstlight.frontend.checkpoint import Checkpoint, StackedRef, WeightRef
from firstlight.frontend.model import trace_model, weight_types
from firstlight.ir.core import Function, Module, Op, Value
from firstlight.ir.interpreter import Interpreter
from firstlight.ir.scales import requantized
from firstlight.ir.types import StateType, TensorType
from firstlight.passes.plan_memory import is_view
from firstlight.passes.specialize import Specialize

ENTRIES = {"decode": ("score", 1), "prefill": ("prefill", 0)}
"""Function and fixed number of tokens (0: any) of the entries, as the compiler specialises them."""


@dataclass(frozen=True)
class Requantized:
    """A weight of the checkpoint as an artifact of another codec has it."""

    ref: WeightRef | StackedRef
    type: TensorType

    def decode(self) -> Array:
        """The values that are left."""
        return requantized(self.ref.decode(), self.type.codec)


Known = Array | WeightRef | StackedRef | Requantized


class InterpreterSide:
    """A checkpoint's module after the passes that an artifact's manifest records.

    Weights are decoded to float32 when an op reads them and then forgotten. Without a manifest the
    passes are the usual ones. If the artifact was compiled from another module, `name` says so.
    """

    def __init__(self, checkpoint: Checkpoint, manifest: Mapping[str, Any] | None = None) -> None:
        self.name = f"interpreter of {checkpoint.path}"
        config = checkpoint.config
        self.chunk: int | None = None
        if manifest is None:
            target, numerics, options = targets.find(None), "float", CompileOptions()
        else:
            target, numerics = targets.find(manifest["target"]["name"]), manifest["numerics"]
            limits = manifest["limits"]
            options = CompileOptions(context=limits["context"], chunk=limits["chunk"],
                                     pipeline=manifest["provenance"]["pipeline"])
        module = trace_model(config, weight_types(checkpoint), meaning(numerics))
        job = prepare(module, config.max_position_embeddings, target, options)
        if manifest is not None and manifest["provenance"].get("fused_hash") != job.fused.hash:
            self.name += " (not the module that the artifact was compiled from)"
        self.vocab_size = config.vocab_size
        self.context: int | None = job.context
        self.tokenizer = checkpoint.path / "tokenizer.json"
        self._context, self._position = job.planned, 0
        self._modules = {
            entry: Specialize(entry=function, tokens=tokens, context=job.planned).run(job.fused)
            for entry, (function, tokens) in ENTRIES.items()
        }
        args = self._modules["decode"]["score"].args
        self._known: dict[str, Known] = {
            name: ref if ref.codec == job.stored[name].codec else Requantized(ref, job.stored[name])
            for name, ref in checkpoint.tensors.items() if name in job.stored
        }
        self._states = [v.loc for v in args if isinstance(v.type, StateType)]
        for v in args:
            if isinstance(v.type, StateType):
                rows = v.type.nbytes(job.planned) // v.type.row_bytes
                self._known[v.loc] = np.zeros((1, rows, v.type.width), np.float32)

    def keys(self, entry: str) -> list[Key]:
        """See `Side.keys`."""
        module = self._modules[entry]
        return numbered(_rows(module, module[ENTRIES[entry][0]], ""))

    def run(self, entry: str, ids: Sequence[int]) -> Iterator[Event]:
        """See `Side.run`."""
        module, count, end = self._modules[entry], len(ids), self._position + len(ids)
        inputs = {"tokens": [ids], "pos": [self._position], "slot": [0], "last": [count - 1]}
        known = self._known | {k: np.array(v, np.int32) for k, v in inputs.items()}
        function = module[ENTRIES[entry][0]]
        interpreter = Interpreter(module, {"B": 1, "S": count, "C": self._context})
        walk = _walk(interpreter, function, [known[v.loc] for v in function.args])
        keys = iter(self.keys(entry))
        while True:
            try:
                values, arrays = next(walk)
            except StopIteration as done:
                results = done.value
                break
            shown = (_shown(v, a, end) for v, a in zip(values, arrays, strict=True))
            yield Event(next(keys), tuple(shown))
        self._known.update(zip(self._states, results[1:], strict=True))
        self._position = end

    def close(self) -> None:
        """See `Side.close`."""


def _rows(module: Module, function: Function, path: str) -> Iterator[tuple[str, str]]:
    """(path, op) of the steps of a function, as `PlanMemory` flattens it."""
    for op in function.ops:
        if op.name == "call":
            yield from _rows(module, module[str(op.attrs["callee"])], op.loc)
            yield op.loc, RETURN
        elif _is_step(op):
            yield ".".join(filter(None, (path, op.loc))), op.name


def _walk(interpreter: Interpreter, function: Function, args: list[Known]
          ) -> Generator[tuple[Sequence[Value], list[Known]], None, list[Known]]:
    """Evaluate a function and give the results of every row of `_rows`; returns its results."""
    known: dict[Value, Known] = dict(zip(function.args, args, strict=True))
    for op in function.ops:
        operands = [known[v] for v in op.operands]
        results: list[Known]
        if op.name == "call":
            callee = interpreter.module[str(op.attrs["callee"])]
            results = yield from _walk(interpreter, callee, operands)
        else:
            results = list(interpreter.op(op, [_array(o) for o in operands]))
        if op.name == "call" or _is_step(op):
            yield op.results, results
        known.update(zip(op.results, results, strict=True))
    return [known[v] for v in function.results]


def _is_step(op: Op) -> bool:
    return op.name != "constant" and not is_view(op)


def _array(known: Known) -> Array:
    return known if isinstance(known, np.ndarray) else known.decode()


def _shown(value: Value, known: Known, end: int) -> Array:
    """A value as events have it: of a state, the rows that `end` tokens may have written."""
    array, type_ = _array(known), value.type
    if not isinstance(type_, StateType):
        return array
    return array[0, : min(end // type_.ratio if type_.kind == "entries" else end, array.shape[1])]
