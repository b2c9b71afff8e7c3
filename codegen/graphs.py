"""A plain graph in, an artifact out: named inputs and outputs instead of tokens and state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from firstlight import __version__
from firstlight.codegen.artifact import (
    KIND,
    artifact_folder,
    file_records,
    write_debug,
    write_json,
    write_manifest,
)
from firstlight.codegen.compile import CompileOptions, build_kernels, refuse_missing
from firstlight.codegen.program import ProgramWriter
from firstlight.codegen.select import KernelSet
from firstlight.codegen.signature import spelled
from firstlight.codegen.target import Override, Target
from firstlight.codegen.weights import write_weights
from firstlight.ir import dims
from firstlight.ir.core import Function, Module, Op, census
from firstlight.ir.dims import Size
from firstlight.ir.registry import TABLE
from firstlight.ir.types import TensorType
from firstlight.passes.legalize import Legalize
from firstlight.passes.pipeline import PIPELINE, run_pipeline
from firstlight.passes.plan_memory import PlanMemory
from firstlight.passes.specialize import Specialize
from firstlight.runtime.errors import FirstlightError

ENTRY = "graph"
Ports = Mapping[str, tuple[str, tuple[Size, ...], int]]


@dataclass(frozen=True)
class Values:
    """A weight that lies in memory."""

    array: NDArray[Any]
    codec: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(self.array.shape)

    def pieces(self, rows: int) -> Iterator[tuple[int, NDArray[Any], None]]:
        """(first row, codes, None), a matrix after the other."""
        matrices = self.array.reshape(-1, *self.array.shape[-2:]) if self.array.ndim > 2 else [
            self.array]
        for matrix in matrices:
            total = matrix.shape[0] if matrix.ndim else 1
            for first in range(0, total, rows):
                yield first, matrix[first:first + rows] if matrix.ndim else matrix, None


def prepare_graph(module: Module, target: Target, options: CompileOptions, most: int) -> Module:
    """The fused module at fixed sizes; S stays open if `most` is more than 1."""
    for flag, bad in (("--runner", options.runner), ("--quantize", options.quantize != "shipped"),
                      ("--context", options.context), ("--chunk", options.chunk),
                      ("--numerics", options.numerics != "float")):
        if bad:
            raise FirstlightError("F402", f"{flag} is for language models", where=flag,
                                  why="a graph has named inputs and outputs, and no sequence",
                                  try_=f"leave {flag} out")
    if target.assemble is not None:
        raise FirstlightError("F402", f"target '{target.name}' takes no graphs", where="--target",
                              why="it writes models as a whole, from checkpoints",
                              try_="--target cpu")
    pipeline = PIPELINE if options.pipeline is None else options.pipeline
    fused = run_pipeline(module, pipeline, dump_dir=options.dump_ir)
    composites = {name for name, info in TABLE.items() if info.composite}
    if composites & set(target.lacking):
        fused = Legalize(ops=tuple(sorted(composites - set(target.lacking)))).run(fused)
    fused = Specialize(entry=ENTRY, tokens=0 if most > 1 else 1, context=1).run(fused)
    refuse_missing(fused, target)
    return fused


def token_count(function: Function, most: int) -> int:
    """The S of each call: `most` where it is open, else the one that most weights are read for.

    Kernels of language models loop over [1, tokens, ...], and the count is one for a whole call.
    """
    if most > 1:
        return most
    weights = Counter[int]()
    for op in function.ops:
        size = _tokens(op)
        if isinstance(size, int):
            weights[size] += sum(v.type.nbytes({}) for v in op.operands
                                 if isinstance(v.type, TensorType) and v.type.codec)
    return max(weights, key=lambda size: (weights[size], size), default=1)


def _tokens(op: Op) -> Size | None:
    """The token axis of an op's input where that is laid out as in language models."""
    if not op.operands:
        return None
    type_ = op.operands[1 if op.name == "embedding" else 0].type
    least = 2 if op.name == "embedding" else 3
    if (not isinstance(type_, TensorType) or type_.codec
            or not least <= len(type_.shape) <= 4 or type_.shape[0] != 1):
        return None
    return type_.shape[1]


def kernel_set(target: Target, options: CompileOptions, most: int, tokens: int) -> KernelSet:
    """An empty set of kernels for calls of `tokens`, as `token_count` gives them."""
    kernels = KernelSet(target, options.kernels == "generic")
    count = dims.S if most > 1 else tokens
    kernels.overrides = {n: _of_count(make, count) for n, make in kernels.overrides.items()}
    return kernels


def _of_count(make: Override, count: Size) -> Override:
    """An override only for inputs of so many tokens."""
    return lambda name, op, tokens: make(name, op, tokens) if _tokens(op) == count else None


def compile_graph(module: Module, target: Target, options: CompileOptions, out: Path,
                  inputs: Ports, outputs: Ports, weights: Mapping[str, NDArray[Any]], most: int,
                  document: Mapping[str, Any], progress: Callable[[str, int, int], None]
                  ) -> dict[str, Any]:
    """Write the artifact of a prepared graph.

    Args:
        inputs, outputs: name -> declared dtype, shape, and index of the argument (unused) or
            result.
        most: the largest value of the open size S.
        document: the manifest's `graph`, `name` and `provenance`.
    """
    function, sizes = module[ENTRY], {"S": most}
    tokens = token_count(function, most)
    at, places = 0, dict[str, int]()

    def place(type_: TensorType) -> int:
        nonlocal at
        begin, at = at, at + max(64, -(-type_.nbytes(sizes) // 64) * 64)
        return begin

    for arg in function.args:
        if arg.loc.startswith("in."):
            assert isinstance(arg.type, TensorType)
            places[arg.loc] = place(arg.type)
    results = []
    for value in function.results:
        assert isinstance(value.type, TensorType)
        results.append(place(value.type))
    kernels = kernel_set(target, options, most, tokens)
    memory = PlanMemory(sizes, partial(kernels.in_place, module=module, tokens=tokens))
    plan = memory.plan(module, ENTRY, places, results, at)
    program = ProgramWriter(kernels, {})
    program.add_graph(
        ENTRY, plan, module, tokens,
        {n: {"dtype": d, "shape": [spelled(s) for s in shape], "offset": places.get(f"in.{n}", 0)}
         for n, (d, shape, _) in inputs.items()},
        {n: {"dtype": d, "shape": [spelled(s) for s in shape], "offset": results[i]}
         for n, (d, shape, i) in outputs.items()})
    sources = {v.loc: Values(weights[v.loc], v.type.codec) for v in function.args
               if isinstance(v.type, TensorType) and v.type.codec}
    with artifact_folder(out, options.force) as folder:
        progress("kernels", 0, len(kernels.kernels))
        build_kernels(target, kernels, folder, options)
        written = write_weights(folder, list(program.stored), sources, program.constants,
                                target.packer, lambda d, n: progress("weights", d, n),
                                options.threads)
        write_json(folder / "program.json", program.document())
        write_debug(folder / "debug.json", program.debug())
        report = {"target": target.name, "ops": census(function), "steps": len(plan.steps),
                  "kernels": {"count": len(kernels.kernels), "overrides": len(kernels.native)},
                  "arena_bytes": program.arena_bytes}
        write_json(folder / "report.json", report)
        write_manifest(folder, {
            "schema": 1, "kind": KIND, "name": document["name"],
            "created_by": {"firstlight": __version__, **target.versions()},
            "target": {"name": target.name, "launcher": target.launcher,
                       "requires": dict(target.requires)},
            "model": {"model_type": "onnx"}, "limits": {"context": tokens, "chunk": tokens},
            "graph": document["graph"], "numerics": options.numerics, "kernels": options.kernels,
            "state": {"bytes": 0, "bytes_per_token": 0, "tensors": []},
            "files": file_records(folder, written),
            "provenance": {"fused_hash": module.hash, **document["provenance"]},
        })
    return {**report, "out": str(out), "weight_bytes": sum(w.bytes for w in written.values())}
