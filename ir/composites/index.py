"""The indexer (spec 4.8): score compressed entries, select the best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array, emit, iota
from firstlight.ir.builder import require
from firstlight.ir.registry import (
    cost_of,
    decomposition_of,
    example,
    op,
    reference_of,
    shape_of,
)
from firstlight.ir.rows import recalled
from firstlight.ir.types import StateType, TensorType, Type

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
B, S = dims.B, dims.S

index_select = op("index_select", ("q", "a", "keys", "slot", "positions"), ("index",),
                  attrs={"k": int, "scale": float, "head_scale": float}, composite=True)


@shape_of(index_select)
def _(q: TensorType, a: TensorType, keys: StateType, slot: TensorType, positions: TensorType, *,
      k: int, scale: float, head_scale: float) -> TensorType:
    """q[B, S, H, c], a[B, S, H] -> places [B, S, k] of the best visible entries, -1 fills up."""
    require(keys.kind == "entries" and q.shape[-1] == keys.width, f"{keys} does not fit {q}")
    require(a.shape == q.shape[:-1], f"weights {a.shape} do not fit queries {q.shape}")
    return TensorType((*positions.shape, k), "i32")


@reference_of(index_select)
def _(q: F32, a: F32, keys: F32, slot: I32, positions: I32, *, k: int, scale: float,
      head_scale: float, types: tuple[Type, ...]) -> I32:
    state = types[2]
    assert isinstance(state, StateType)
    out = np.full((*positions.shape, k), -1, np.int32)
    for b, s in np.ndindex(*positions.shape):
        visible = recalled(keys[slot[b], :(positions[b, s] + 1) // state.ratio], state.codec)
        hits = np.maximum(q[b, s] @ visible.T * np.float32(scale), 0)
        score = (hits * (a[b, s] * np.float32(head_scale))[:, None]).sum(0)
        best = np.argsort(-score, kind="stable")[:k]
        out[b, s, :len(best)] = best
    return out


@decomposition_of(index_select)
def _(q: Array, a: Array, keys: Array, slot: Array, positions: Array, *, k: int, scale: float,
      head_scale: float) -> Array:
    batch, tokens, heads = q.shape[0], q.shape[1], q.dim(2)
    capacity, ratio = keys.state.capacity, keys.state.ratio
    (entries,) = emit(q.builder, "entries_read", keys, slot)
    entries = entries.reshape(batch, 1, capacity, keys.state.width)
    hits = (q.matmul(entries, transpose=True) * scale).emit("relu")
    weights = (a * head_scale).reshape(batch, tokens, heads, 1)
    score = (hits * weights).sum(2)
    visible = (iota(q.builder, (1, 1, capacity), 2)
               < ((positions + 1) // ratio).reshape(batch, tokens, 1))
    return visible.emit("select", score, score.lift(-float("inf"))).emit("top_k", k=k)


@cost_of(index_select)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    """Every key is scored, whatever is visible."""
    q, keys = ins[0], ins[2]
    return 2 * dims.product(q.shape) * dims.product((keys.capacity,))


example(index_select, TensorType((B, S, 3, 6)), TensorType((B, S, 3)),
        StateType("entries", 6, ratio=4), TensorType((B,), "i32"), TensorType((B, S), "i32"),
        k=5, scale=0.3, head_scale=0.7)
