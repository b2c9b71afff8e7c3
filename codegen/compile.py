"""The compiler driver: checkpoint folder in, artifact folder out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from firstlight import __version__
from firstlight.codegen.apart import Died, run_apart
from firstlight.codegen.artifact import (
    KIND,
    artifact_folder,
    file_records,
    write_debug,
    write_json,
    write_manifest,
)
from firstlight.codegen.binary import program_bytes
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.program import ProgramWriter, whole_program
from firstlight.codegen.select import KernelSet
from firstlight.codegen.target import Assembly, Entry, Target
from firstlight.codegen.weight_report import weight_report
from firstlight.codegen.weights import write_weights
from firstlight.ir.core import Module, census
from firstlight.ir.registry import TABLE
from firstlight.ir.types import StateType, TensorType, row_codec
from firstlight.passes.legalize import Legalize
from firstlight.passes.pipeline import parse, pipeline_for, run_pipeline, spell
from firstlight.passes.plan_memory import Plan, PlanMemory
from firstlight.passes.specialize import Specialize
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.safetensors import Written

DEFAULT_CONTEXT = 32768
DEFAULT_CHUNK = 512
INPUTS = ("pos", "slot", "last", "tokens")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CompileOptions:
    """What the command line can choose; None means the default.

    importance      weight -> [K], what an error in a column weighs where a weight is quantized
    """

    target: str | None = None
    context: int | None = None
    chunk: int | None = None
    numerics: str = "float"
    kernels: str = "default"
    quantize: str = "shipped"
    importance: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    pipeline: str | None = None
    dump_ir: Path | None = None
    threads: int | None = None
    force: bool = False
    runner: bool = False


@dataclass(frozen=True)
class Job:
    """A model on its way to a target: the fused module and the limits.

    `planned` is the context that states are sized for: at least one block of every ratio, because
    a state without rows has no address.
    """

    module: Module
    fused: Module
    target: Target
    context: int
    planned: int
    chunk: int
    pipeline: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def stored(self) -> dict[str, TensorType]:
        """Every weight's name and type, after the passes."""
        return self._weights(self.fused)

    @property
    def shipped(self) -> dict[str, TensorType]:
        """The same before them."""
        return self._weights(self.module)

    def _weights(self, module: Module) -> dict[str, TensorType]:
        return {v.loc: v.type for f in (module[e.function] for e in _entries(self.chunk))
                for v in f.args if isinstance(v.type, TensorType) and v.type.codec}


def meaning(numerics: str) -> str:
    """The numerics of the IR under a `--numerics`: `fast` is a matter of kernels."""
    return "float" if numerics == "fast" else numerics


def _entries(chunk: int) -> tuple[Entry, ...]:
    return (Entry("decode", "score", 1, True), Entry("prefill", "prefill", chunk, False),
            Entry("score", "score", chunk, True))


def prepare(module: Module, max_positions: int, target: Target, options: CompileOptions) -> Job:
    """Check the options against the model and run the passes."""
    limit = max_positions
    context = min(limit, DEFAULT_CONTEXT) if options.context is None else options.context
    chunk = min(DEFAULT_CHUNK, context) if options.chunk is None else options.chunk
    for name, value, most in (("context", context, limit), ("chunk", chunk, context)):
        if not 1 <= value <= most:
            raise FirstlightError(
                "F402", f"--{name} {value} is out of range", where=f"--{name}",
                why=f"it must lie between 1 and {most}", try_=f"--{name} {min(most, 256)}",
            )
    if options.kernels not in ("default", "generic"):
        raise FirstlightError(
            "F402", f"--kernels {options.kernels} is not known", where="--kernels",
            why="there are `default` and `generic`", try_="--kernels default",
        )
    if options.numerics == "fast" and (target.fast is None or options.kernels == "generic"):
        raise FirstlightError(
            "F403", f"target '{target.name}' has no fast kernels here", where="--numerics fast",
            why="`fast` is what a target's own kernels may do; generic kernels compute in float32",
            try_="--numerics float",
        )
    if options.runner and target.runner is None:
        raise FirstlightError(
            "F402", f"target '{target.name}' has no runner", where="--runner",
            why="its artifacts run through a launcher of the Python runtime only",
            try_="leave --runner out",
        )
    chosen = target.chosen(options.options)
    target = target.configured(chosen) if target.configured else target
    pipeline = chosen_pipeline(target, options)
    passes = parse(pipeline)
    if any(isinstance(p, Specialize) for p in passes):
        raise FirstlightError(
            "F402", "a pipeline cannot specialize", where="--pipeline",
            why="the compiler does that itself after the pipeline, once for each entry",
            try_=f"--pipeline {spell([p for p in passes if not isinstance(p, Specialize)])!r}",
        )
    fused = run_pipeline(module, passes, dump_dir=options.dump_ir)
    composites = {name for name, info in TABLE.items() if info.composite}
    if composites & set(target.lacking):
        fused = Legalize(ops=tuple(sorted(composites - set(target.lacking)))).run(fused)
    refuse_missing(fused, target)
    _refuse_states(fused, target)
    ratios = [v.type.ratio for v in module["score"].args if isinstance(v.type, StateType)]
    return Job(module, fused, target, context, max(context, *ratios), chunk, pipeline,
               chosen)


def chosen_pipeline(target: Target, options: CompileOptions) -> str:
    """The passes that the options name, else those that fit the kernels."""
    if options.pipeline is not None:
        return options.pipeline
    return pipeline_for(frozenset() if options.kernels == "generic" else target.capabilities.native)


def refuse_missing(module: Module, target: Target) -> None:
    """Raise F404 for an op that the target cannot have in any way."""
    for function in module:
        for op in function.ops:
            if target.support(op.name).how == "missing":
                raise FirstlightError(
                    "F404", f"target '{target.name}' has no way to do fl.{op.name}",
                    where=op.loc or f"@{function.name}", why=target.missing[op.name],
                    try_="another target, or add a kernel for this op to the plug-in",
                )


def _refuse_states(fused: Module, target: Target) -> None:
    """Raise F413 for a state in a codec that the target's kernels do not read and write."""
    for value in fused["score"].args:
        if isinstance(value.type, StateType):
            codes = row_codec(value.type.codec).codes
            if codes not in target.capabilities.states:
                raise FirstlightError(
                    "F413", f"target '{target.name}' cannot keep state as {codes}",
                    where=f"{value.loc} in {value.type.codec}",
                    why=f"its kernels read {', '.join(target.capabilities.states)}",
                    try_="leave kv and index-keys out of --quantize, or --target cpu",
                )


def plans(job: Job, kernels: KernelSet
          ) -> Iterator[tuple[Entry, Module, Plan, dict[str, int], int]]:  # fmt: skip
    """(entry, specialised module, plan, input offsets, logits offset) of every entry.

    kernels: those that the steps will have, which say what they do in place.
    """
    offsets, base = {}, 0
    for name in INPUTS:
        offsets[name] = base
        base += 64 if name != "tokens" else -(-4 * job.chunk // 64) * 64
    for entry in _entries(job.chunk):
        tokens = entry.tokens if entry.tokens == 1 else 0
        module = Specialize(entry=entry.function, tokens=tokens, context=job.planned).run(job.fused)
        function = module[entry.function]
        logits = function.results[0].type
        assert isinstance(logits, TensorType)
        size = -(-logits.nbytes({"S": entry.tokens}) // 64) * 64
        names = {v.loc for v in function.args}
        inputs = {n: o for n, o in offsets.items() if n in names}
        memory = PlanMemory({"S": entry.tokens}, partial(
            kernels.in_place, module=module, tokens=entry.tokens))
        plan = memory.plan(module, entry.function, inputs, base, base + size)
        yield entry, module, plan, inputs, base


def job_kernels(job: Job) -> Mapping[str, Kernel]:
    """The kernels of the artifact that `compile_module` writes, by their symbols."""
    kernels = KernelSet(job.target)
    for entry, module, plan, _, _ in plans(job, kernels):
        for step in plan.steps:
            kernels.kernel(step.op, module, entry.tokens)
    return kernels.kernels


def state_plan(module: Module, context: int) -> dict[str, Any]:
    """The `state` section of a manifest."""
    tensors, offset, per_token = [], 0, 0.0
    for value in module["score"].args:
        if not isinstance(value.type, StateType):
            continue
        kind, size = value.type, value.type.nbytes(context)
        tensors.append({"name": value.loc, "kind": kind.kind, "rows": size // kind.row_bytes,
                        "ratio": kind.ratio, "width": kind.width, "offset": offset, "bytes": size,
                        **({} if kind.codec == "f32" else {"codec": kind.codec,
                                                           "row_bytes": kind.row_bytes})})
        offset += -(-size // 64) * 64
        per_token += kind.row_bytes / kind.ratio if kind.kind == "entries" else 0
    return {"bytes": offset, "bytes_per_token": per_token, "tensors": tensors}


def compile_module(job: Job, sources: Mapping[str, Any], out: Path, options: CompileOptions,
                   model: Mapping[str, Any], copies: Mapping[str, Path],
                   provenance: Mapping[str, Any], roles: Mapping[str, Sequence[str]],
                   progress: Progress) -> dict[str, Any]:
    """Write the artifact of a prepared job.

    Args:
        sources: weights by name (`firstlight.codegen.weights.Source`).
        model: the manifest's `model` section.
        copies: files to copy, by their name in the artifact.
        roles: of weights, as patterns of names: the rows of the report.
    """
    state = state_plan(job.fused, job.planned)
    make = _assembled if job.target.assemble else _compiled
    with artifact_folder(out, options.force) as folder:
        weights, report = make(job, sources, folder, options, model, state, progress)
        for name, path in copies.items():
            shutil.copyfile(path, folder / name)
        rows = weight_report(job.shipped, job.stored, sources, roles)
        if job.target.assemble:     # which stores weights in forms of its own
            rows = [{k: v for k, v in row.items() if k not in ("stored", "bytes")} for row in rows]
        report |= {"numerics": options.numerics, "quantize": options.quantize,
                   "calibrated": bool(options.importance), "weights": rows}
        write_json(folder / "report.json", report)
        write_manifest(folder, {
            "schema": 1, "kind": KIND, "name": model["name"],
            "created_by": {"firstlight": __version__, **job.target.versions()},
            "target": {"name": job.target.name, "launcher": job.target.launcher,
                       "requires": dict(job.target.requires)},
            "model": dict(model), "limits": {"context": job.context, "chunk": job.chunk},
            "numerics": options.numerics, "kernels": options.kernels,
            "quantize": options.quantize, "state": state,
            **({"calibrated": True} if options.importance else {}),
            **({"options": dict(job.options)} if job.options else {}),
            "files": file_records(folder, weights),
            "provenance": {"ir_hash": job.module.hash, "fused_hash": job.fused.hash,
                           "pipeline": job.pipeline, **provenance},
        })
    return {**report, "out": str(out),
            "weight_bytes": sum(w.bytes for w in weights.values())}


def _compiled(job: Job, sources: Mapping[str, Any], folder: Path, options: CompileOptions,
              model: Mapping[str, Any], state: Mapping[str, Any], progress: Progress
              ) -> tuple[Mapping[str, Written], dict[str, Any]]:
    """Kernels, a program of calls, and weights as the kernels want them; with the report."""
    kernels = KernelSet(job.target, options.kernels == "generic", options.numerics)
    program = ProgramWriter(kernels, {t["name"]: t["offset"] for t in state["tensors"]})
    for done, (entry, module, plan, inputs, logits) in enumerate(plans(job, kernels)):
        progress("plan", done, 3)
        program.add(entry.name, plan, module, entry.tokens, inputs, logits, entry.every_row,
                    model["vocab_size"])
    progress("kernels", 0, len(kernels.kernels))
    build_kernels(job.target, kernels, folder, options)
    progress("kernels", len(kernels.kernels), len(kernels.kernels))
    weights = write_weights(folder, list(program.stored), sources, program.constants,
                            job.target.packer,
                            lambda done, total: progress("weights", done, total),
                            options.threads)
    write_json(folder / "program.json", program.document())
    if options.runner:
        (folder / "program.bin").write_bytes(program_bytes(
            program.document(), folder, model, job.context, state["bytes"]))
    write_debug(folder / "debug.json", program.debug())
    return weights, _report(job, kernels, program, state)


def _assembled(job: Job, sources: Mapping[str, Any], folder: Path, options: CompileOptions,
               model: Mapping[str, Any], state: Mapping[str, Any], progress: Progress
               ) -> tuple[Mapping[str, Written], dict[str, Any]]:
    """What the target makes of whole graphs; entries of the program have no steps then."""
    assert job.target.assemble is not None
    entries = _entries(job.chunk)
    weights = job.target.assemble(Assembly(
        job.fused, entries, job.planned, job.chunk, state, job.options, model, sources, folder,
        progress))
    write_json(folder / "program.json", whole_program(entries, model["vocab_size"]))
    return weights, {
        "target": job.target.name, "context": job.context, "chunk": job.chunk,
        "options": dict(job.options), "ops": {f.name: census(f) for f in job.fused},
        "state_bytes": state["bytes"], "state_bytes_per_token": state["bytes_per_token"],
    }


def build_kernels(target: Target, kernels: KernelSet, folder: Path,
                  options: CompileOptions) -> None:
    """Make code in a process of its own, whose temporary files lie in `folder`, too."""
    build = target.runner if options.runner and target.runner else target.build
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run_apart(lambda: build(kernels.kernels, folder, options.threads), Path(scratch))
    except Died as e:
        raise FirstlightError(
            "F421", "the artifact cannot be written", where=f"kernels for {target.name}",
            why=str(e), try_="a folder with free space, and a machine with free memory",
        ) from e


def _report(job: Job, kernels: KernelSet, program: ProgramWriter,
            state: Mapping[str, Any]) -> dict[str, Any]:
    document = program.document()
    return {
        "target": job.target.name, "context": job.context, "chunk": job.chunk,
        "ops": {f.name: census(f) for f in job.fused},
        "kernels": {"count": len(kernels.kernels), "overrides": len(kernels.native),
                    "generic": sorted({s.rsplit("_", 1)[0] for s in kernels.kernels
                                       if s not in kernels.native})},
        "steps": {name: len(e["steps"]) for name, e in document["entries"].items()},
        "arena_bytes": program.arena_bytes, "state_bytes": state["bytes"],
        "state_bytes_per_token": state["bytes_per_token"],
    }
