"""Pipelines: passes by name, as printable text, verified and dumped step by step."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from firstlight.ir.core import Module
from firstlight.ir.verifier import verify
from firstlight.passes.base import Pass
from firstlight.passes.canonicalize import Canonicalize
from firstlight.passes.fuse_across_calls import FuseAcrossCalls
from firstlight.passes.fuse_attention_inputs import FuseAttentionInputs
from firstlight.passes.fuse_compressor import FuseCompressor
from firstlight.passes.fuse_expert_dispatch import FuseExpertDispatch
from firstlight.passes.fuse_hybrid_attention import FuseHybridAttention
from firstlight.passes.fuse_hyper_connections import FuseHyperConnections
from firstlight.passes.fuse_indexer import FuseIndexer
from firstlight.passes.fuse_linears import FuseLinears
from firstlight.passes.fuse_norm_rope import FuseNormRope
from firstlight.passes.legalize import Legalize
from firstlight.passes.quantize import Quantize
from firstlight.passes.specialize import Specialize
from firstlight.runtime.errors import FirstlightError

FUSIONS: tuple[type[Pass], ...] = (
    Canonicalize, FuseNormRope, FuseCompressor, FuseIndexer, FuseHybridAttention,
    FuseHyperConnections, FuseExpertDispatch, FuseLinears,
)
JOINTS: tuple[type[FuseAttentionInputs | FuseAcrossCalls], ...] = (
    FuseAttentionInputs, FuseAcrossCalls)
_OTHERS: tuple[type[Pass], ...] = (Legalize, Quantize, Specialize)
PASSES = {p.name: p for p in (*FUSIONS, *JOINTS, *_OTHERS)}
PIPELINE = ",".join(p.name for p in FUSIONS)

_STEP = re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|$)")


def parse(text: str) -> tuple[Pass, ...]:
    """The passes of a pipeline text: ``canonicalize,specialize{entry=score,tokens=1}``.

    Lists are written ``ops=rms_norm+rope``. The empty text is the empty pipeline. Raises F301 for
    what is not spelled like this, an unknown pass or option, or a value of the wrong type.
    """
    passes, at = [], 0
    while text[at:].strip():
        match = _STEP.match(text, at)
        if match is None:
            raise _error(f"cannot read the pipeline at column {at + 1}", text,
                         f"the text there is `{text[at:at + 30]}`",
                         "name{option=value,...} separated by commas")
        passes.append(_pass(match["name"], match["options"] or "", text))
        at = match.end()
    return tuple(passes)


def _pass(name: str, options: str, text: str) -> Pass:
    if name not in PASSES:
        raise _error(f"there is no pass '{name}'", text,
                     f"the passes are {', '.join(PASSES)}", f"--pipeline {PIPELINE}")
    kind = PASSES[name]
    hints, known = get_type_hints(kind), [f.name for f in dataclasses.fields(kind)]
    values: dict[str, Any] = {}
    for part in filter(None, map(str.strip, options.split(","))):
        option, _, value = map(str.strip, part.partition("="))
        if option not in known:
            raise _error(f"pass '{name}' has no option '{option}'", text,
                         f"its options are: {', '.join(known) or 'none'}", f"--pipeline {name}")
        try:
            values[option] = _value(hints[option], value)
        except (KeyError, ValueError) as e:
            raise _error(f"pass '{name}' cannot take {option}={value}", text,
                         f"the option is of type {getattr(hints[option], '__name__', '?')}",
                         f"{name}{{{option}={getattr(kind, option, '')}}}") from e
    return kind(**values)


def _value(kind: Any, text: str) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text]
    if kind in (int, float, str):
        return kind(text)
    return tuple(filter(None, text.split("+")))


def pipeline_for(native: frozenset[str]) -> str:
    """What is done where no pipeline is given, for a target that has these ops."""
    joints = [p.name for p in JOINTS if native.issuperset(p.rules)]
    return ",".join([PIPELINE, *joints])


def spell(passes: Sequence[Pass]) -> str:
    """Inverse of `parse`."""
    return ",".join(map(str, passes))


def run_pipeline(module: Module, pipeline: str | Sequence[Pass] = PIPELINE,
                 dump_dir: Path | str | None = None) -> Module:
    """Run passes over a module, which is verified before the first and after each.

    Args:
        pipeline: its text, or the passes.
        dump_dir: where to write the module as ``00-input.ir``, then ``01-canonicalize.ir``, ...

    Raises F301 for a pipeline that cannot be read, F302 when a pass leaves an invalid module: its
    input then stays as ``before.ir`` and the error says how to replay the pass alone.
    """
    passes = parse(pipeline) if isinstance(pipeline, str) else tuple(pipeline)
    folder = Path(dump_dir) if dump_dir is not None else None
    verify(module)
    _dump(module, folder, 0, "input")
    for number, step in enumerate(passes, 1):
        before, module = module, step.run(module)
        try:
            verify(module)
        except FirstlightError as e:
            raise _broken(step, before, folder, e) from e
        _dump(module, folder, number, step.name)
    return module


def _dump(module: Module, folder: Path | None, number: int, name: str) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}-{name}.ir").write_text(str(module))


def _broken(step: Pass, before: Module, folder: Path | None,
            error: FirstlightError) -> FirstlightError:
    folder = folder or Path(tempfile.mkdtemp(prefix="firstlight-"))
    path = folder / "before.ir"
    path.write_text(str(before))
    return FirstlightError(
        "F302", f"pass '{step.name}' left an invalid module: {error.what}", where=error.where,
        why=error.why, try_=f"python -m firstlight.passes '{path}' '{step}'   (please report)",
    )


def _error(what: str, text: str, why: str, try_: str) -> FirstlightError:
    return FirstlightError("F301", what, where=f"--pipeline {text}", why=why, try_=try_)
