"""Ops on state: rings of recent rows and growing entries (spec 6.1).

States are values like any other: a write gives the new state, and the planner makes it in place.
`slot[b]` says which row of the state's slots axis belongs to sequence b. A write rounds rows as the
state's codec does; arrays hold them as the state does (`ir.rows`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firstlight.ir.builder import require
from firstlight.ir.ops.shape import free
from firstlight.ir.registry import cost_of, op, reference_of, shape_of
from firstlight.ir.rows import held, recalled
from firstlight.ir.types import StateType, TensorType, Type

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def codec_of(types: tuple[Type, ...]) -> str:
    """The codec of the state that is an op's first operand."""
    state = types[0]
    assert isinstance(state, StateType)
    return state.codec


ring_read = op("ring_read", ("state", "slot", "pos"))


@shape_of(ring_read)
def _(state: StateType, slot: TensorType, pos: TensorType) -> TensorType:
    """The rows before pos, oldest first: [B, rows, width]; rows before position 0 are zero."""
    require(state.kind in ("ring", "partial"), f"{state} is not a ring")
    return TensorType((slot.shape[0], state.rows, state.width))


@reference_of(ring_read)
def _(state: F32, slot: I32, pos: I32, *, types: tuple[Type, ...]) -> F32:
    rows = state.shape[1]
    positions = pos[:, None] - rows + np.arange(rows)
    old = recalled(state[slot[:, None], positions % rows], codec_of(types))
    return np.where(positions[..., None] >= 0, old, np.float32(0))


ring_write = op("ring_write", ("state", "x", "slot", "pos"), ("state",))


@shape_of(ring_write)
def _(state: StateType, x: TensorType, slot: TensorType, pos: TensorType) -> StateType:
    """Rows x[B, S, width] go to positions pos .. pos+S-1 (the last `rows` of them stay)."""
    require(state.kind in ("ring", "partial"), f"{state} is not a ring")
    require(x.shape[-1] == state.width, f"rows are {x.shape[-1]} wide, the state {state.width}")
    return state


@reference_of(ring_write)
def _(state: F32, x: F32, slot: I32, pos: I32, *, types: tuple[Type, ...]) -> F32:
    out, rows = state.copy(), state.shape[1]
    x = held(x, codec_of(types))
    for i in range(max(0, x.shape[1] - rows), x.shape[1]):
        out[slot, (pos + i) % rows] = x[:, i]
    return out


entries_read = op("entries_read", ("state", "slot"))


@shape_of(entries_read)
def _(state: StateType, slot: TensorType) -> TensorType:
    """All entries, [B, C // ratio, width]; those not written yet hold any finite number."""
    require(state.kind == "entries", f"{state} does not hold entries")
    return TensorType((slot.shape[0], state.capacity, state.width))


@reference_of(entries_read)
def _(state: F32, slot: I32, *, types: tuple[Type, ...]) -> F32:
    return recalled(state[slot], codec_of(types))


entries_append = op("entries_append", ("state", "x", "slot", "first", "count"), ("state",))


@shape_of(entries_append)
def _(state: StateType, x: TensorType, slot: TensorType, first: TensorType,
      count: TensorType) -> StateType:
    """The first count[b] rows of x[b] become entries first[b] .. first[b]+count[b]-1."""
    require(state.kind == "entries", f"{state} does not hold entries")
    require(x.shape[-1] == state.width, f"rows are {x.shape[-1]} wide, the state {state.width}")
    return state


@reference_of(entries_append)
def _(state: F32, x: F32, slot: I32, first: I32, count: I32, *, types: tuple[Type, ...]) -> F32:
    out = state.copy()
    x = held(x, codec_of(types))
    for b, (s, at, n) in enumerate(zip(slot, first, count, strict=True)):
        out[s, at:at + n] = x[b, :n]
    return out


for _info in (ring_read, ring_write, entries_read, entries_append):
    cost_of(_info)(free)
