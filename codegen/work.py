"""What a call of an entry does: operations by the op table's costs, bytes by the types.

This is arithmetic over the plan, and says nothing about time; `firstlight.codegen.estimate` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from firstlight.ir import dims
from firstlight.ir.core import Module, Op
from firstlight.ir.registry import TABLE
from firstlight.ir.types import StateType, TensorType, Type
from firstlight.passes.plan_memory import Step

READERS = frozenset({"hybrid_attention", "norm_rope_attention", "index_select", "ring_read",
                     "entries_read"})
"""They read the rows of a state; others touch as many as a call writes."""
FLOAT = 4
"""Bytes of a number in a state."""


@dataclass(frozen=True)
class Work:
    """Operations, and bytes of weights, of kept rows, and of values between kernels."""

    flops: float = 0.0
    weights: float = 0.0
    state: float = 0.0
    values: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.weights + other.weights,
                    self.state + other.state, self.values + other.values)

    def per(self, tokens: int) -> dict[str, float]:
        """Plain data, of one token among so many."""
        return {"flops": self.flops / tokens, "weight_bytes": self.weights / tokens,
                "state_bytes": self.state / tokens, "value_bytes": self.values / tokens}


def work_of(steps: Iterable[Step], module: Module, tokens: int, context: int) -> Work:
    """What the steps of a plan do in one call of `tokens` tokens at the end of `context`.

    A weight is read once a call: of stacked experts those that tokens are expected to choose, of an
    embedding the rows of the tokens. Attention reads its window, and of the entries those it picked
    or all there may be.
    """
    sizes = {"B": 1, "S": tokens, "C": context}
    total = Work()
    for step in steps:
        total += op_work(step.op, module, sizes)
    return total


def op_work(op: Op, module: Module, sizes: Mapping[str, int]) -> Work:
    """One op; `sizes` are those of B, S and C."""
    ins = [_fixed(v.type, sizes) for v in op.operands]
    outs = [_fixed(v.type, sizes) for v in op.results]
    weights = sum(_read(op.name, t, ins, outs) for t in ins
                  if isinstance(t, TensorType) and t.codec)
    values = sum(t.nbytes() for t in (*ins, *outs) if isinstance(t, TensorType) and not t.codec)
    state = sum(_rows(op.name, t, ins, sizes["S"]) * t.row_bytes for t in ins
                if isinstance(t, StateType))
    return Work(_flops(op, module, ins, outs, sizes), weights, state, values)


def _fixed(type_: Type, sizes: Mapping[str, int]) -> Type:
    if isinstance(type_, StateType):
        return replace(type_, rows=dims.evaluate(type_.capacity, sizes))
    return replace(type_, shape=tuple(dims.evaluate(d, sizes) for d in type_.shape))


def _flops(op: Op, module: Module, ins: list[Type], outs: list[Type],
           sizes: Mapping[str, int]) -> float:
    if op.name == "repeat":         # what it repeats is in the module, which its cost does not see
        body = module[str(op.attrs["callee"])]
        count = op.attrs["count"]
        assert isinstance(count, int)
        return count * sum(op_work(inner, module, sizes).flops for inner in body.ops)
    cost = TABLE[op.name].cost
    assert cost is not None
    return float(cost(tuple(ins), tuple(outs), **op.attrs))


def _read(op: str, weight: TensorType, ins: list[Type], outs: list[Type]) -> float:
    """Bytes of a weight that a call reads."""
    first = int(weight.shape[0]) if weight.shape else 1
    if op == "embedding":
        return _numbers(outs[0]) / int(weight.shape[-1]) * weight.nbytes() / first
    index = next((t for t in ins if isinstance(t, TensorType) and t.dtype == "i32"
                  and not t.codec), None)
    if weight.rank < 3 or index is None:
        return weight.nbytes()
    each = int(index.shape[-1])
    chosen = first * (1 - (1 - each / first) ** (_numbers(index) / each))
    return weight.nbytes() * chosen / first


def _rows(op: str, state: StateType, ins: list[Type], tokens: int) -> float:
    """Rows of a state that a call reads or writes."""
    if op not in READERS:
        return min(state.rows, max(1, tokens // (state.ratio or 1)))
    picked = next((t for t in ins if isinstance(t, TensorType) and t.dtype == "i32"
                   and t.rank == 3), None)
    if state.kind == "entries" and picked is not None:
        return min(state.rows, tokens * int(picked.shape[-1]))
    return state.rows


def _numbers(type_: Type) -> int:
    assert isinstance(type_, TensorType)
    return math.prod(map(int, type_.shape))
