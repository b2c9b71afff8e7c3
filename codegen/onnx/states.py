"""Rows of the ops on state, for one sequence: a state is [slots, rows, width] in and out."""

from __future__ import annotations

import numpy as np

from firstlight.codegen.onnx.graph import INFINITY, Graph
from firstlight.codegen.onnx.movement import count
from firstlight.codegen.onnx.table import row
from firstlight.codegen.onnx.values import Val
from firstlight.ir.types import StateType, TensorType

INT64 = 7


def _sequence(g: Graph, state: Val, slot: Val) -> str:
    """[1, rows, width]; where the slot is a constant 0 there is one sequence, and nothing to do."""
    known = g.value(slot.name)
    if known is not None and not known.any():
        return state.name
    return str(g("Gather", state.name, slot.plain(g), axis=0))


def _places(g: Graph, slot: Val, rows: str) -> str:
    """Pairs (slot, row) [n, 2] of rows [n] i32."""
    rows = g("Unsqueeze", g("Cast", rows, to=INT64), [1])
    slots = g("Unsqueeze", g("Cast", slot.plain(g), to=INT64), [1])
    slots = g("Expand", slots, g("Shape", rows))
    return str(g("Concat", slots, rows, axis=1))


@row
def ring_read(g: Graph, out: TensorType, state: Val, slot: Val, pos: Val) -> str:
    length = np.int32(state.state.rows)
    at = g("Add", g("Sub", pos.plain(g), length), np.arange(length, dtype=np.int32))
    old = g("Gather", _sequence(g, state, slot), g("Mod", at, length), axis=1)
    seen = g("Unsqueeze", g("GreaterOrEqual", at, np.int32(0)), [0, 2])
    return str(g("Where", seen, old, np.float32(0)))


@row
def ring_write(g: Graph, out: StateType, state: Val, x: Val, slot: Val, pos: Val) -> str:
    """Of more tokens than rows the last ones are written: no row is written twice."""
    length, tokens = state.state.rows, x.shape[1]
    at = g("Add", pos.plain(g), _line(g, tokens))
    new = g("Squeeze", x.plain(g), [0])
    if not isinstance(tokens, int) or tokens > length:
        at = g("Slice", at, [-length], [INFINITY], [0])
        new = g("Slice", new, [-length], [INFINITY], [0])
    places = _places(g, slot, g("Mod", at, np.int32(length)))
    return str(g("ScatterND", state.name, places, new))


def _line(g: Graph, length: object) -> str:
    if isinstance(length, int):
        return g.constant(np.arange(length, dtype=np.int32))
    return str(g("Range", np.int32(0), count(g, length), np.int32(1)))  # type: ignore[arg-type]


@row
def entries_read(g: Graph, out: TensorType, state: Val, slot: Val) -> str:
    return _sequence(g, state, slot)


@row
def entries_append(g: Graph, out: StateType, state: Val, x: Val, slot: Val, first: Val,
                   number: Val) -> str:
    """B is 1: the first `number` rows of x, at `first` and after it."""
    many = g("Squeeze", number.plain(g), [0])
    at = g("Add", first.plain(g), g("Range", np.int32(0), many, np.int32(1)))
    ends = g("Cast", number.plain(g), to=INT64)
    new = g("Slice", g("Squeeze", x.plain(g), [0]), [0], ends, [0])
    return str(g("ScatterND", state.name, _places(g, slot, at), new))
