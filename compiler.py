"""The whole road: a checkpoint folder in, an artifact folder out.

Beside the command line this is the one place that knows every package: the frontend reads and
traces, the passes fuse, the code generator and the target write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from firstlight import targets
from firstlight.codegen.artifact import refuse_impossible, refuse_occupied
from firstlight.codegen.compile import (
    CompileOptions,
    Job,
    chosen_pipeline,
    compile_module,
    meaning,
    prepare,
)
from firstlight.codegen.dry_run import plan_document
from firstlight.codegen.requantize import Requantized
from firstlight.codegen.target import Target
from firstlight.codegen.weights import Source
from firstlight.frontend.checkpoint import (
    Checkpoint,
    StackedRef,
    WeightRef,
    read_checkpoint,
    read_config,
)
from firstlight.frontend.config import ModelConfig, eos_token_ids
from firstlight.frontend.fields import Fields
from firstlight.frontend.model import config_types, trace_model, weight_types
from firstlight.frontend.names import ROLES
from firstlight.ir.types import TensorType
from firstlight.passes.policy import quantizer, searched
from firstlight.runtime.errors import FirstlightError

__all__ = ["CompileOptions", "Prepared", "compile_checkpoint", "plan_checkpoint",
           "prepare_checkpoint", "refuse_calibrating"]

COPIED = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
Progress = Callable[[str, int, int], None]


def _quiet(stage: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Prepared:
    """A checkpoint on its way to an artifact: read, traced, changed by the passes."""

    source: Checkpoint
    job: Job
    options: CompileOptions

    def write(self, out: Path | str, progress: Progress = _quiet) -> dict[str, Any]:
        """Write the artifact and return the report; see `compile_checkpoint`."""
        source, job = self.source, self.job
        weigh = self.options.importance
        sources = {name: _source(ref, job.stored[name], weigh.get(name))
                   for name, ref in source.tensors.items()}
        copies = {n: source.path / n for n in COPIED if (source.path / n).is_file()}
        return compile_module(job, sources, Path(out), self.options,
                              _model_section(source.config, source), copies, _provenance(source),
                              ROLES, progress)


def compile_checkpoint(checkpoint: Path | str, out: Path | str,
                       options: CompileOptions | None = None,
                       progress: Progress = _quiet) -> dict[str, Any]:
    """Compile a checkpoint folder for one target.

    Args:
        out: the artifact's folder; it must not exist (or be an artifact, with options.force).
        progress: called with a stage and how much of it is done.

    Returns the report. Raises FirstlightError; nothing is left behind then.
    """
    options = options or CompileOptions()
    target = targets.find(options.target)
    _refuse_out(Path(out), Path(checkpoint), options.force)
    return prepare_checkpoint(checkpoint, target, options, progress).write(out, progress)


def prepare_checkpoint(checkpoint: Path | str, target: Target, options: CompileOptions,
                       progress: Progress = _quiet) -> Prepared:
    """The first half of `compile_checkpoint`; `options.target` does not matter here."""
    progress("read", 0, 1)
    source = read_checkpoint(checkpoint)
    _model_section(source.config, source)       # refuses what is wrong before the passes
    progress("trace", 0, 1)
    module = trace_model(source.config, weight_types(source), meaning(options.numerics))
    progress("passes", 0, 1)
    job = prepare(module, source.config.max_position_embeddings, target,
                  quantized(options, source.config, target))
    return Prepared(source, job, options)


def plan_checkpoint(checkpoint: Path | str,
                    options: CompileOptions | None = None) -> dict[str, Any]:
    """The dry run: what would be compiled, and every byte it would need. Reads no weight.

    A folder with nothing but config.json is enough; codecs are then those of the release.
    """
    options = options or CompileOptions()
    target = targets.find(options.target)
    path = Path(checkpoint)
    if path.is_dir() and any(path.glob("*.safetensors")):
        source = read_checkpoint(path)
        config, types = source.config, weight_types(source)
    else:
        config = read_config(path)
        types = config_types(config)
    module = trace_model(config, types, meaning(options.numerics))
    job = prepare(module, config.max_position_embeddings, target,
                  quantized(options, config, target))
    return plan_document(job, options)


def quantized(options: CompileOptions, config: ModelConfig, target: Target) -> CompileOptions:
    """The options with a pipeline in which the quantization policy is a pass."""
    step = quantizer(options.quantize, ROLES, config.qk_rope_head_dim,
                     options.numerics == "released")
    if step is None:
        return options
    pipeline = chosen_pipeline(target, options)
    return replace(options, pipeline=",".join(filter(None, (pipeline, str(step)))))


def refuse_calibrating(checkpoint: Path, out: Path, options: CompileOptions) -> None:
    """What would be refused after a calibration, which takes long, and one that changes nothing."""
    if not searched(options.quantize):
        raise FirstlightError(
            "F306", "a calibration would change nothing", where=f"--quantize {options.quantize}",
            why="only mxfp4, int8-g32 and int4-g32 have scales that are searched",
            try_="without --calibrate, or another policy")
    _refuse_out(out, checkpoint, options.force)
    plan_checkpoint(checkpoint, options)


def _refuse_out(out: Path, checkpoint: Path, force: bool) -> None:
    """Early, because reading and planning take a while: what cannot be written or replaced."""
    refuse_occupied(out, force)
    refuse_impossible(out)
    if out.exists() and checkpoint.resolve().is_relative_to(out.resolve()):
        raise FirstlightError(
            "F420", "the checkpoint lies where the artifact would", where=str(out),
            why=f"writing it would remove {checkpoint}", try_="another folder for the artifact",
        )


def _model_section(config: ModelConfig, source: Checkpoint) -> dict[str, Any]:
    eos = config.eos_token_ids
    generation = Fields(source.generation_config or {}, str(source.path / "generation_config.json"))
    if generation.get("eos_token_id") is not None:
        eos = eos_token_ids(generation, config.vocab_size)
    # Not the folder's name: equal checkpoints give equal artifacts wherever they lie.
    name = str(source.raw_config.get("_name_or_path") or "").rstrip("/").rpartition("/")[2]
    return {
        "name": name or config.model_type, "model_type": config.model_type,
        "vocab_size": config.vocab_size, "bos_token_id": config.bos_token_id,
        "eos_token_ids": list(eos),
        "layers": config.num_hidden_layers, "hidden_size": config.hidden_size,
        "max_position_embeddings": config.max_position_embeddings,
    }


def _provenance(source: Checkpoint) -> dict[str, Any]:
    """What was compiled. Shards are named by size: hashing 865 GB would double the compile."""
    return {
        "shards": {name: size for name, size in source.shards},
        "config": dict(source.raw_config),
        "left_aside": len(source.ignored),
    }


def _source(ref: WeightRef | StackedRef, type_: TensorType,
            importance: NDArray[Any] | None) -> Source:
    """A weight of the checkpoint, in the codec that the passes chose."""
    pieces = _Pieces(ref)
    return pieces if ref.codec == type_.codec else Requantized(pieces, type_.codec, importance)


@dataclass(frozen=True)
class _Pieces:
    """A checkpoint weight as the artifact writer reads it: one matrix, some rows at a time."""

    ref: WeightRef | StackedRef

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.ref.shape)

    @property
    def codec(self) -> str:
        return self.ref.codec

    def pieces(self, rows: int) -> Iterator[tuple[int, NDArray[Any], NDArray[Any] | None]]:
        """(first row, codes, scales); fp8 scales are those of the whole matrix."""
        matrices = self.ref if isinstance(self.ref, StackedRef) else (self.ref,)
        for matrix in matrices:
            total = matrix.shape[0] if matrix.shape else 1
            fp8 = matrix.codec.startswith("fp8")
            for first in range(0, total, rows):
                part = slice(first, min(total, first + rows))
                yield (first, matrix.codes(part),
                       matrix.scales() if fp8 else matrix.scales(part))
                matrix.release(part)
