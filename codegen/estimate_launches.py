"""How many launches a target's emitter makes of a decoded token, today: an estimate has one for
each op, which is what a fused kernel would be."""

from __future__ import annotations

from collections import Counter

from firstlight.codegen.compile import CompileOptions, plans, prepare
from firstlight.codegen.select import KernelSet
from firstlight.codegen.target import Target
from firstlight.ir.core import Module


def emitted_launches(module: Module, context: int, target: Target) -> dict[str, dict[str, int]]:
    """By op, how often a decoded token calls it and how many launches that is.

    Kernels are emitted, not built: that takes from seconds to a minute or two. Raises what the
    compiler raises for a model that the target cannot have.
    """
    job = prepare(module, context, target, CompileOptions(context=context, chunk=1))
    kernels = KernelSet(job.target)
    _, decode, plan, _, _ = next(plans(job))
    launches: dict[str, int] = {}
    calls, total = Counter[str](), Counter[str]()
    for one in plan.steps:
        kernel = kernels.kernel(one.op, decode, 1)
        if kernel.name not in launches:
            launches[kernel.name] = len(job.target.emit(kernel).launch.get("launches", (None,)))
        calls[one.op.name] += 1
        total[one.op.name] += launches[kernel.name]
    return {name: {"calls": calls[name], "launches": n} for name, n in total.most_common()}
