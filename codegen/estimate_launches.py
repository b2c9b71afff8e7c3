"""What a target's emitter makes of a decoded token today: launches, and the bytes they move.

An estimate has one kernel for each op, which is what a fused kernel would be; the difference is
what is left to do.
"""

from __future__ import annotations

from collections.abc import Callable

from firstlight.codegen.compile import CompileOptions, plans, prepare
from firstlight.codegen.kernel import Kernel
from firstlight.codegen.select import KernelSet
from firstlight.codegen.target import Target
from firstlight.ir.core import Module

Traffic = Callable[[Kernel], list[float]]
"""Bytes of each launch of a kernel, for one token."""


def emitted_launches(module: Module, context: int, target: Target, traffic: Traffic | None
                     ) -> dict[str, dict[str, float]]:
    """By op, for a decoded token of one sequence: calls, launches, and bytes where known.

    Kernels are emitted, not built: that takes from seconds to a minute or two. Raises what the
    compiler raises for a model that the target cannot have.
    """
    job = prepare(module, context, target, CompileOptions(context=context, chunk=1))
    kernels = KernelSet(job.target)
    _, decode, plan, _, _ = next(plans(job, kernels))
    made: dict[str, tuple[int, float]] = {}
    rows: dict[str, dict[str, float]] = {}
    for one in plan.steps:
        kernel = kernels.kernel(one.op, decode, 1)
        if kernel.name not in made:
            launches = len(job.target.emit(kernel).launch.get("launches", (None,)))
            made[kernel.name] = launches, sum(traffic(kernel)) if traffic else 0.0
        row = rows.setdefault(one.op.name, {"calls": 0, "launches": 0, "bytes": 0.0})
        for key, more in zip(row, (1, *made[kernel.name]), strict=True):
            row[key] += more
    return dict(sorted(rows.items(), key=lambda pair: -pair[1]["launches"]))
