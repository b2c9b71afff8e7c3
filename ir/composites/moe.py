"""Routing and experts (spec 4.11)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array
from firstlight.ir.builder import require
from firstlight.ir.registry import (
    cost_of,
    decomposition_of,
    example,
    op,
    reference_of,
    shape_of,
)
from firstlight.ir.types import TensorType

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
B, S = dims.B, dims.S
TINY = 1e-20
"""Added to the sum of the chosen scores, which may all underflow to zero (spec 9, D12)."""


def _scores(x: F32, gate: F32) -> F32:
    z: F32 = x @ gate.T
    scores: F32 = np.sqrt(np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))))
    return scores


def _normalized(scores: F32, index: I32, scale: float) -> F32:
    chosen = np.take_along_axis(scores, index.astype(np.int64), -1)
    total = chosen.sum(-1, keepdims=True) + np.float32(TINY)
    weights: F32 = chosen / total * np.float32(scale)
    return weights


def _traced_scores(x: Array, gate: Array) -> Array:
    return x.emit("linear", gate).emit("softplus").emit("sqrt")


def _traced_normalized(scores: Array, index: Array, scale: float) -> Array:
    chosen = scores.emit("take_along", index)
    return chosen / (chosen.sum(-1, keepdims=True) + TINY) * scale


route = op("route", ("x", "gate", "bias"), ("index", "weights"),
           attrs={"k": int, "scale": float}, composite=True)


@shape_of(route)
def _(x: TensorType, gate: TensorType, bias: TensorType, *, k: int,
      scale: float) -> tuple[TensorType, TensorType]:
    """The k experts with the largest sqrt(softplus(gate x)) + bias, and their weights."""
    require(gate.shape[1] == x.shape[-1] and bias.shape == gate.shape[:1],
            f"gate {gate.shape}, bias {bias.shape} do not fit x {x.shape}")
    shape = (*x.shape[:-1], k)
    return TensorType(shape, "i32"), TensorType(shape)


@reference_of(route)
def _(x: F32, gate: F32, bias: F32, *, k: int, scale: float) -> tuple[I32, F32]:
    scores = _scores(x, gate)
    index = np.argsort(-(scores + bias), -1, kind="stable")[..., :k].astype(np.int32)
    return index, _normalized(scores, index, scale)


@decomposition_of(route)
def _(x: Array, gate: Array, bias: Array, *, k: int, scale: float) -> tuple[Array, Array]:
    scores = _traced_scores(x, gate)
    index = (scores + bias).emit("top_k", k=k)
    return index, _traced_normalized(scores, index, scale)


example(route, TensorType((B, S, 6)), TensorType((5, 6)), TensorType((5,)), k=2, scale=1.3)

route_hash = op("route_hash", ("x", "gate", "table", "tokens"), ("index", "weights"),
                attrs={"scale": float}, composite=True)


@shape_of(route_hash)
def _(x: TensorType, gate: TensorType, table: TensorType, tokens: TensorType, *,
      scale: float) -> tuple[TensorType, TensorType]:
    """The experts that table[V, A] lists for each token id, weighted by their scores."""
    require(table.dtype == "i32" and gate.shape[1] == x.shape[-1],
            f"gate {gate.shape} does not fit x {x.shape}")
    shape = (*tokens.shape, table.shape[1])
    return TensorType(shape, "i32"), TensorType(shape)


@reference_of(route_hash)
def _(x: F32, gate: F32, table: I32, tokens: I32, *, scale: float) -> tuple[I32, F32]:
    index = table[tokens].astype(np.int32)
    return index, _normalized(_scores(x, gate), index, scale)


@decomposition_of(route_hash)
def _(x: Array, gate: Array, table: Array, tokens: Array, *, scale: float) -> tuple[Array, Array]:
    index = table.emit("embedding", tokens)
    return index, _traced_normalized(_traced_scores(x, gate), index, scale)


example(route_hash, TensorType((B, S, 6)), TensorType((5, 6)), TensorType((7, 2), "i32"),
        TensorType((B, S), "i32"), scale=1.3)


def _gate_products(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 2 * dims.product(ins[0].shape[:-1]) * dims.product(ins[1].shape)


cost_of(route)(_gate_products)
cost_of(route_hash)(_gate_products)

expert_ffn = op("expert_ffn", ("x", "index", "weights", "w1", "w3", "w2", "s1", "s3", "s2"),
                attrs={"limit": float}, composite=True)


@shape_of(expert_ffn)
def _(x: TensorType, index: TensorType, weights: TensorType, w1: TensorType, w3: TensorType,
      w2: TensorType, s1: TensorType, s3: TensorType, s2: TensorType, *,
      limit: float) -> TensorType:
    """Weighted sum of the chosen experts (w1, w3 [E, I, D], w2 [E, D, I]) plus the shared one."""
    require(w1.shape == w3.shape and w1.shape[2] == x.shape[-1]
            and w2.shape == (w1.shape[0], w1.shape[2], w1.shape[1]), "w1, w3, w2 do not fit x")
    require(s1.shape == s3.shape and s2.shape == s1.shape[::-1], "s1, s3, s2 do not fit x")
    require(index.shape == weights.shape == (*x.shape[:-1], index.shape[-1]), "index, weights")
    return x.plain


def _swiglu(gate: F32, up: F32, limit: float) -> F32:
    gate, up = np.minimum(gate, np.float32(limit)), np.clip(up, -limit, limit).astype(np.float32)
    f: F32 = (gate / (1 + np.exp(-gate)) * up).astype(np.float32)
    return f


@reference_of(expert_ffn)
def _(x: F32, index: I32, weights: F32, w1: F32, w3: F32, w2: F32, s1: F32, s3: F32, s2: F32, *,
      limit: float) -> F32:
    y: F32 = _swiglu(x @ s1.T, x @ s3.T, limit) @ s2.T
    for place in np.ndindex(*index.shape):
        e, token = index[place], x[place[:-1]]
        y[place[:-1]] += weights[place] * (w2[e] @ _swiglu(w1[e] @ token, w3[e] @ token, limit))
    return y


def _traced_swiglu(gate: Array, up: Array, limit: float) -> Array:
    gate, up = gate.minimum(limit), up.minimum(limit).maximum(-limit)
    return gate * gate.emit("sigmoid") * up


@decomposition_of(expert_ffn)
def _(x: Array, index: Array, weights: Array, w1: Array, w3: Array, w2: Array, s1: Array,
      s3: Array, s2: Array, *, limit: float) -> Array:
    gate, up = (x.emit("expert_linear", w, index) for w in (w1, w3))
    out = _traced_swiglu(gate, up, limit).emit("expert_linear", w2, index)
    routed = (out * weights.insert(-1)).sum(-2)
    shared = _traced_swiglu(x.emit("linear", s1), x.emit("linear", s3), limit)
    return routed + shared.emit("linear", s2)


@cost_of(expert_ffn)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    x, index, w1 = ins[0], ins[1], ins[3]
    per_expert = 6 * dims.product(w1.shape[1:])
    return per_expert * (dims.product(index.shape) + dims.product(x.shape[:-1]))


example(expert_ffn, TensorType((B, S, 6)), TensorType((B, S, 2), "i32"), TensorType((B, S, 2)),
        TensorType((5, 4, 6)), TensorType((5, 4, 6)), TensorType((5, 6, 4)), TensorType((4, 6)),
        TensorType((4, 6)), TensorType((6, 4)), limit=0.7)
