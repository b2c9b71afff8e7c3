"""Attention over a window and compressed entries, one softmax with a sink (spec 4.6, 4.9)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array, concat, constant, emit, iota
from firstlight.ir.builder import require
from firstlight.ir.registry import (
    cost_of,
    decomposition_of,
    example,
    lookup,
    op,
    reference_of,
    shape_of,
)
from firstlight.ir.rows import held, recalled
from firstlight.ir.types import StateType, TensorType, Type

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
B, S = dims.B, dims.S

hybrid_attention = op(
    "hybrid_attention",
    ("q", "kv", "sink", "freqs", "ring", "slot", "pos", "entries?", "index?"), ("o", "ring"),
    attrs={"scale": float}, composite=True,
)


@shape_of(hybrid_attention)
def _(q: TensorType, kv: TensorType, sink: TensorType, freqs: TensorType, ring: StateType,
      slot: TensorType, pos: TensorType, entries: StateType | None = None,
      index: TensorType | None = None, *, scale: float) -> tuple[TensorType, StateType]:
    """Queries [B, S, H, c] over: the last `ring.rows` tokens (kv[B, S, c] are this call's own),
    and of the entries none / all visible ones / those at index[B, S, k] (-1: none).

    Output [B, S, H, c] has the inverse rope of the query's position. kv goes into the ring, and
    every query sees it as the ring gives it back, whatever the chunk it comes in.
    """
    require(q.shape[-1] == kv.shape[-1] == ring.width, f"{ring} does not fit queries {q.shape}")
    require(sink.shape == q.shape[2:3], f"sinks {sink.shape} do not fit queries {q.shape}")
    require(entries is None or entries.width == ring.width, f"{entries} does not fit {ring}")
    return q.plain, ring


@reference_of(hybrid_attention)
def _(q: F32, kv: F32, sink: F32, freqs: F32, ring: F32, slot: I32, pos: I32,
      entries: F32 | None = None, index: I32 | None = None, *, scale: float,
      types: tuple[Type, ...]) -> tuple[F32, F32]:
    ring, out, rows = ring.copy(), np.empty_like(q), ring.shape[1]
    positions = (pos[:, None] + np.arange(q.shape[1])).astype(np.int32)
    window, state = types[4], types[7] if entries is not None else None
    assert isinstance(window, StateType)
    kv = held(kv, window.codec)
    for b, s in np.ndindex(*q.shape[:2]):
        t = int(positions[b, s])
        ring[slot[b], t % rows] = kv[b, s]
        seen = ring[slot[b], np.arange(max(0, t - rows + 1), t + 1) % rows]
        seen = recalled(seen, window.codec)
        if entries is not None:
            assert isinstance(state, StateType)
            chosen = (np.arange((t + 1) // state.ratio) if index is None
                      else index[b, s][index[b, s] >= 0])
            seen = np.concatenate([seen, recalled(entries[slot[b], chosen], state.codec)])
        logits = q[b, s] @ seen.T * np.float32(scale)
        top = np.maximum(logits.max(1), sink)
        weights = np.exp(logits - top[:, None])
        total = weights.sum(1) + np.exp(sink - top)
        out[b, s] = weights @ seen / total[:, None]
    rope = lookup("rope").reference
    assert rope is not None
    return rope(out, positions, freqs, inverse=True), ring


@decomposition_of(hybrid_attention)
def _(q: Array, kv: Array, sink: Array, freqs: Array, ring: Array, slot: Array, pos: Array,
      entries: Array | None = None, index: Array | None = None, *,
      scale: float) -> tuple[Array, Array]:
    b, (batch, tokens, heads, width), rows = q.builder, q.shape, ring.state.rows
    positions = pos.reshape(batch, 1) + iota(b, (1, tokens), 1)
    (old,) = emit(b, "ring_read", ring, slot, pos)
    (ring_out,) = emit(b, "ring_write", ring, kv, slot, pos)
    if ring.state.codec != "f32":
        kv = kv.emit("round_rows", codec=ring.state.codec)
    window = concat([old, kv], 1)                     # row j is position pos - rows + j
    length = dims.add(tokens, rows)
    row, query = iota(b, (1, 1, length), 2), iota(b, (1, tokens, 1), 1)
    in_window = (row > query) & (row <= query + rows) & (row >= rows - pos.reshape(batch, 1, 1))
    keys = [(window.reshape(batch, 1, length, width), in_window)]
    if entries is not None:
        (every,) = emit(b, "entries_read", entries, slot)
        if index is None:
            capacity, ratio = entries.state.capacity, entries.state.ratio
            visible = ((positions + 1) // ratio).reshape(batch, tokens, 1)
            keys.append((every.reshape(batch, 1, capacity, width),
                         iota(b, (1, 1, capacity), 2) < visible))
        else:
            keys.append((every.emit("gather_rows", index), index >= 0))
    nothing = constant(b, -float("inf"))
    logits = [seen.insert(2).emit("select", q.matmul(key, transpose=True) * scale, nothing)
              for key, seen in keys]
    sinks = sink.reshape(1, 1, heads, 1)
    top = sinks
    for part in logits:
        top = part.emit("reduce_max", axis=3, keepdims=True).maximum(top)
    total = (sinks - top).emit("exp")                # the sink only enlarges the denominator
    out = None
    for part, (key, _) in zip(logits, keys, strict=True):
        weights = (part - top).emit("exp")
        total = weights.sum(3, keepdims=True) + total
        mixed = weights.matmul(key)
        out = mixed if out is None else out + mixed
    assert out is not None
    out = out / total
    return out.emit("rope", positions, freqs, inverse=True), ring_out


@cost_of(hybrid_attention)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    """The window and, of the entries, those selected or all."""
    q, ring = ins[0], ins[4]
    seen = ring.rows
    if len(ins) == 9:
        seen += ins[8].shape[-1]
    elif len(ins) == 8:
        seen += dims.product((ins[7].capacity,))
    return float(4 * dims.product(q.shape) * seen)


_I32, _RING, _ENTRIES = TensorType((B,), "i32"), StateType("ring", 8, 5), StateType(
    "entries", 8, ratio=4)
_COMMON = (TensorType((B, S, 3, 8)), TensorType((B, S, 8)), TensorType((3,)), TensorType((2,)),
           _RING, _I32, _I32)
example(hybrid_attention, *_COMMON, _ENTRIES, TensorType((B, S, 6), "i32"), scale=0.3)
example(hybrid_attention, *_COMMON, _ENTRIES, scale=0.3)
example(hybrid_attention, *_COMMON, scale=0.3)

norm_rope_attention = op(
    "norm_rope_attention",
    ("q", "kv", "norm", "sink", "freqs", "ring", "slot", "pos", "entries?", "index?"),
    ("o", "ring"), attrs={"eps": float, "scale": float}, joint=True,
)


@shape_of(norm_rope_attention)
def _(q: TensorType, kv: TensorType, norm: TensorType, *rest: Any, eps: float,
      scale: float) -> tuple[TensorType, StateType]:
    """`hybrid_attention` of queries and keys as they were projected: each query is normed and
    turned, keys are normed with norm[c] and turned (spec 4.6)."""
    require(norm.shape == kv.shape[-1:], f"norm {norm.shape} does not fit keys {kv.shape}")
    assert hybrid_attention.shape is not None
    return hybrid_attention.shape(q, kv, *rest, scale=scale)  # type: ignore[return-value]


@reference_of(norm_rope_attention)
def _(q: F32, kv: F32, norm: F32, sink: F32, freqs: F32, ring: F32, slot: I32, pos: I32,
      *entries: Any, eps: float, scale: float, types: tuple[Type, ...]) -> tuple[F32, F32]:
    turned, attend = lookup("norm_rope").reference, hybrid_attention.reference
    assert turned is not None
    assert attend is not None
    positions = (pos[:, None] + np.arange(q.shape[1])).astype(np.int32)
    q, kv = turned(q, positions, freqs, eps=eps), turned(kv, norm, positions, freqs, eps=eps)
    return attend(q, kv, sink, freqs, ring, slot, pos, *entries, scale=scale,  # type: ignore
                  types=types[:2] + types[3:])


@decomposition_of(norm_rope_attention)
def _(q: Array, kv: Array, norm: Array, sink: Array, freqs: Array, ring: Array, slot: Array,
      pos: Array, *entries: Array, eps: float, scale: float) -> tuple[Array, ...]:
    b, (batch, tokens) = q.builder, q.shape[:2]
    positions = pos.reshape(batch, 1) + iota(b, (1, tokens), 1)
    (q,) = emit(b, "norm_rope", q, positions, freqs, eps=eps)
    (kv,) = emit(b, "norm_rope", kv, norm, positions, freqs, eps=eps)
    return emit(b, "hybrid_attention", q, kv, sink, freqs, ring, slot, pos, *entries, scale=scale)


@cost_of(norm_rope_attention)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    turned, attend = lookup("norm_rope").cost, hybrid_attention.cost
    assert turned is not None
    assert attend is not None
    return turned(ins[:1], outs[:1]) + turned(ins[1:2], ()) + attend(ins[:2] + ins[3:], outs)


_NORMED = (*_COMMON[:2], TensorType((8,)), *_COMMON[2:])
example(norm_rope_attention, *_NORMED, _ENTRIES, TensorType((B, S, 6), "i32"), eps=1e-3, scale=0.3)
example(norm_rope_attention, *_NORMED, _ENTRIES, eps=1e-3, scale=0.3)
example(norm_rope_attention, *_NORMED, eps=1e-3, scale=0.3)
