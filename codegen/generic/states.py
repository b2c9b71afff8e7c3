"""Lowerings of the state ops. A state is written in place: its new value is the same memory."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Reduction, State, Tensor
from firstlight.codegen.generic.rows import read_row, recalled, row_parts
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.core import Op


@lower("ring_read")
def _(e: Emitter, op: Op, state: State, slot: Tensor, pos: Tensor) -> Tensor | Reduction:
    rows = state.type.rows

    def read(b: Expr, row: Expr, column: Expr) -> Expr:
        position = pos.read(b) - rows + row
        old = read_row(state, _wide(slot.read(b)), T.floormod(position, rows), column)
        return T.Select(position >= 0, old, T.float32(0))

    return recalled(state.type, Tensor(op.result.type, read))


@lower("ring_write")
def _(e: Emitter, op: Op, state: State, x: Tensor, slot: Tensor, pos: Tensor) -> State:
    """Only the last `rows` tokens are written, so no two of them share a row."""
    rows, (_, tokens, _) = state.type.rows, (extents := e.extents(x.type))

    def row(b: Expr, s: Expr) -> Expr:
        return T.floormod(pos.read(b) + s, rows)

    _write_rows(e, op.name, state, x, slot, extents, lambda b, s: s >= tokens - rows, row)
    return state


@lower("entries_read", kind="view")
def _(e: Emitter, op: Op, state: State, slot: Tensor) -> Tensor | Reduction:
    return recalled(state.type, Tensor(
        op.result.type,
        lambda b, row, column: read_row(state, _wide(slot.read(b)), row, column)))


@lower("entries_append")
def _(e: Emitter, op: Op, state: State, x: Tensor, slot: Tensor, first: Tensor,
      count: Tensor) -> State:
    capacity = e.extent(state.type.capacity)

    def wanted(b: Expr, i: Expr) -> Expr:
        return T.And(i < count.read(b), first.read(b) + i < capacity)

    _write_rows(e, op.name, state, x, slot, e.extents(x.type), wanted,
                lambda b, i: first.read(b) + i)
    return state


def _write_rows(e: Emitter, name: str, state: State, x: Tensor, slot: Tensor,
                extents: tuple[Expr, ...], wanted: Any, row: Any) -> None:
    """state[slot[b], row(b, i)] = x[b, i] where wanted(b, i)."""
    *lead, width = extents
    parts = row_parts(e, state.type, x)
    with e.loops(lead, width) as at, T.sblock(name):
        b, i = (T.axis.spatial(n, v) for n, v in zip(lead, at, strict=True))
        for part in parts:
            with T.If(wanted(b, i)), T.Then(), T.serial(part.count) as column:
                place = (_wide(slot.read(b)), row(b, i), part.offset + column)
                T.buffer_store(state.buffer, part.value((b, i), column), list(place))


def _wide(slot: Expr) -> Expr:
    return T.Cast("int64", slot)
