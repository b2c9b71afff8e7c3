"""Lowering of `repeat`. A `call` has no kernel: the planner flattens it into steps."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.function import lower_function
from firstlight.codegen.generic.recipe import Fill, Tensor
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.core import Op


@lower("repeat")
def _(e: Emitter, op: Op, x: Tensor) -> Fill:
    """The result's buffer holds the running value; a round fills a second one, copied back."""
    type_ = op.result.type

    def emit(buffer: Any) -> None:
        e.place("repeat_first", x, buffer)
        with T.serial(op.attrs["count"]):
            next_ = e.allocate("repeat", type_)
            running = e.view(type_, buffer)
            lower_function(e, e.module[str(op.attrs["callee"])], [running], [next_])
            e.place("repeat_next", e.view(type_, next_), buffer)

    return Fill(type_, emit)
