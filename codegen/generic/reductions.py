"""Lowerings of reductions, softmax and top-k."""

from __future__ import annotations

import math
from typing import Any

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Fill, Reduction, Tensor
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T, named
from firstlight.ir.core import Op
from firstlight.ir.types import TensorType


@lower("reduce_sum", "reduce_max", "reduce_mean")
def _(e: Emitter, op: Op, x: Tensor) -> Reduction:
    reduction = along(e, x, op.attrs["axis"], op.attrs["keepdims"],
                      "max" if op.name == "reduce_max" else "sum")
    if op.name != "reduce_mean":
        return reduction
    count = T.Cast("float32", reduction.extent)
    return Reduction(reduction.type, reduction.extent, reduction.term,
                     finish=lambda total: total / count, rows=reduction.rows)


def along(e: Emitter, x: Tensor, axis: int, keepdims: bool, join: str) -> Reduction:
    """The reduction of a tensor along one axis."""
    kept = (1,) if keepdims else ()
    shape = (*x.type.shape[:axis], *kept, *x.type.shape[axis + 1:])

    def term(index: tuple[Expr, ...], k: Expr) -> Expr:
        return x.read(*index[:axis], k, *index[axis + len(kept):])

    return Reduction(TensorType(shape, x.type.dtype), e.extent(x.type.shape[axis]), term, join,
                     rows=axis == x.type.rank - 1)


@lower("softmax")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    axis, type_ = op.attrs["axis"], op.result.type

    def row(index: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (*index[:axis], T.int32(0), *index[axis + 1:])

    top = e.place("softmax_max", along(e, x, axis, True, "max"))
    power = e.place("softmax_exp", Tensor(
        type_, lambda *i: T.exp(x.read(*i) - top.read(*row(i)))))
    total = e.place("softmax_sum", along(e, power, axis, True, "sum"))
    return Tensor(type_, lambda *i: power.read(*i) / total.read(*row(i)))


@lower("top_k")
def _(e: Emitter, op: Op, x: Tensor) -> Fill:
    """The k best so far are kept in descending order; a new value moves the smaller ones down.

    Only a larger value is put before another one, so that ties keep the order of their places, and
    -inf (which fills the list at first) is never put anywhere.
    """
    k, count = op.attrs["k"], e.extent(x.type.shape[-1])
    *lead, _ = e.extents(op.result.type)

    def emit(buffer: Any) -> None:
        with e.loops(lead, 4 * k) as row, T.sblock("top_k"):
            row = [T.axis.spatial(n, i) for n, i in zip(lead, row, strict=True)]
            best = named("best", T.alloc_buffer((k,), "float32"))
            with T.serial(k) as j:
                T.buffer_store(best, T.float32(-math.inf), [j])
                T.buffer_store(buffer, T.int32(-1), [*row, j])
            with T.serial(count) as place:
                value = T.bind(x.read(*row, place))
                with T.If(value > best[k - 1]), T.Then(), T.serial(k) as back:
                    j = k - 1 - back
                    with T.If(value > best[j]), T.Then():
                        _insert(best, buffer, row, j, value, place)

    return Fill(op.result.type, emit)


def _insert(best: Any, buffer: Any, row: list[Expr], j: Expr, value: Expr, place: Expr) -> None:
    """The value belongs at `j` or before it: put it there, or move the one before down."""
    before = T.max(j - 1, T.int32(0))
    with T.If(T.And(j > 0, value > best[before])):
        with T.Then():
            T.buffer_store(best, best[before], [j])
            T.buffer_store(buffer, buffer[(*row, before)], [*row, j])
        with T.Else():
            T.buffer_store(best, value, [j])
            T.buffer_store(buffer, T.Cast("int32", place), [*row, j])
