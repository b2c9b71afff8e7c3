"""The dry run: what would be compiled and how, before a weight is read or code is made."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from firstlight.codegen.compile import CompileOptions, Job, plans, state_plan
from firstlight.codegen.program import Stored
from firstlight.codegen.select import KernelSet
from firstlight.codegen.signature import packed_specs
from firstlight.codegen.work import work_of
from firstlight.ir.core import Module, census
from firstlight.ir.types import TensorType
from firstlight.passes.plan_memory import Step

SHOWN = ("decode", "prefill")
"""Entries whose work is told: `score` does what `prefill` does, and more heads."""


def plan_document(job: Job, options: CompileOptions) -> dict[str, Any]:
    """What `compile --dry-run` prints, as plain data.

    ``ops`` counts the calls of a decoded token. ``weight_bytes`` are those of the checkpoint after
    the passes, ``packed_bytes`` what the artifact will hold of them, and of constants (left out for
    targets that take whole graphs). ``per_token`` has the work of an entry's longest call at the
    end of the context, divided by its tokens.
    """
    chosen = KernelSet(job.target, options.kernels == "generic", options.numerics)
    kernels = _Kernels(chosen, job.stored)
    arena, work = 0, {}
    for entry, module, plan, _, _ in plans(job, chosen):
        arena = max(arena, plan.arena_bytes)
        kernels.stored |= {Stored(name): array.nbytes for name, array in plan.constants.items()}
        if job.target.assemble is None:
            for step in plan.steps:
                kernels.look_at(step, module, entry.tokens)
        if entry.name == "decode":
            counts = Counter(step.op.name for step in plan.steps)
            how = {name: kernels.how(name) for name in counts}
        if entry.name in SHOWN:
            work[entry.name] = work_of(plan.steps, module, entry.tokens,
                                       job.planned).per(entry.tokens)
    state = state_plan(job.fused, job.planned)
    return {
        "target": job.target.name, "numerics": options.numerics, "quantize": options.quantize,
        "context": job.context, "chunk": job.chunk,
        "functions": {f.name: census(f) for f in job.fused},
        "calls": census(job.fused).get("call", 0),
        "ops": {name: {"count": n, **how[name]} for name, n in sorted(counts.items())},
        **{kind: {name: support.reason for name, support in job.target.ops.items()
                  if support.how == kind} for kind in ("decomposed", "missing")},
        "weight_bytes": sum(t.nbytes() for t in job.stored.values()),
        **({} if job.target.assemble else {"packed_bytes": sum(kernels.stored.values())}),
        "state_bytes": state["bytes"], "state_bytes_per_token": state["bytes_per_token"],
        "arena_bytes": arena, "per_token": work,
    }


class _Kernels:
    """Which kernels a plan will have, and the bytes of the weights they want."""

    def __init__(self, kernels: KernelSet, types: Mapping[str, TensorType]) -> None:
        self.kernels, self.types = kernels, types
        self.stored: dict[Stored, int] = {}
        self._fit: dict[str, list[bool]] = {}

    def look_at(self, step: Step, module: Module, tokens: int) -> None:
        """A step whose op the target has kernels for, or that reads weights."""
        name, weights = step.op.name, any(place.kind == "weight" for place in step.operands)
        native = name in self.kernels.target.capabilities.native
        if not native and not weights:
            return
        kernel = self.kernels.override(step.op, module, tokens)
        if native:
            self._fit.setdefault(name, []).append(kernel is not None)
        layouts = kernel.layouts if kernel else (None,) * len(step.operands)
        for place, layout in zip(step.operands, layouts, strict=True):
            stored = Stored(place.name, layout or "")
            if place.kind == "weight" and stored not in self.stored:
                self.stored[stored] = self._bytes(stored)

    def how(self, op: str) -> dict[str, str]:
        """`native`, `generic`, or how many calls are which and why, of those looked at."""
        fit = self._fit.get(op, [])
        if self.kernels.generic_only:
            return {"how": "generic", "why": "asked for"}
        if all(fit):
            return {"how": self.kernels.target.support(op).how, "why": ""}
        return {"how": f"native {sum(fit)}, generic {len(fit) - sum(fit)}" if any(fit)
                else "generic", "why": "the target's own kernel does not take these types"}

    def _bytes(self, stored: Stored) -> int:
        type_ = self.types[stored.weight]
        specs = packed_specs(stored.layout, type_.codec, [int(size) for size in type_.shape],
                             self.kernels.target.packer)
        return sum(math.prod(spec[0]) * np.dtype(spec[1]).itemsize for spec in specs if spec)
