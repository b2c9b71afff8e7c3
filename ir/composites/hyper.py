"""Hyper-connections: N residual streams, mixed by learned coefficients (spec 4.1, 4.2, 4.12)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array, emit, trace
from firstlight.ir.builder import Builder, require
from firstlight.ir.registry import (
    cost_of,
    decomposition_of,
    example,
    lookup,
    op,
    reference_of,
    shape_of,
)
from firstlight.ir.types import TensorType

F32 = NDArray[np.float32]
B, S = dims.B, dims.S


def _collapse(x: F32, coefficients: F32) -> F32:
    y: F32 = (coefficients[..., None] * x).sum(-2)
    return y


def _normalized_product(x: F32, fn: F32, eps: float) -> F32:
    flat = x.reshape(*x.shape[:-2], -1)
    square = np.mean(flat * flat, -1, keepdims=True)
    z: F32 = (flat @ fn.T) / np.sqrt(square + np.float32(eps))
    return z


def _sigmoid(x: F32) -> F32:
    reference = lookup("sigmoid").reference
    assert reference is not None
    return reference(x)  # type: ignore[no-any-return]


def _rms_norm(x: F32, w: F32, eps: float) -> F32:
    reference = lookup("rms_norm").reference
    assert reference is not None
    return reference(x, w, eps=eps)  # type: ignore[no-any-return]


hyper_pre = op("hyper_pre", ("x", "fn", "base", "scale", "norm"), ("y", "post", "comb"),
               attrs={"eps": float, "hc_eps": float, "rounds": int}, composite=True)


@shape_of(hyper_pre)
def _(x: TensorType, fn: TensorType, base: TensorType, scale: TensorType, norm: TensorType, *,
      eps: float, hc_eps: float, rounds: int) -> tuple[TensorType, ...]:
    """Streams x[B, S, N, D] -> sublayer input [B, S, D] (collapsed, normed), post, comb.

    `rounds` = hc_sinkhorn_iters - 1: (rows, columns) normalisations after the first columns.
    """
    *lead, n, d = x.shape
    assert isinstance(n, int)
    assert isinstance(d, int)
    require(fn.shape == ((2 + n) * n, n * d), f"fn is {fn.shape} for {n} streams of {d}")
    require(base.shape == ((2 + n) * n,) and scale.shape == (3,), "base [(2+N)N], scale [3]")
    require(norm.shape == (d,), f"norm is {norm.shape} for width {d}")
    return (TensorType((*lead, d)), TensorType((*lead, n)), TensorType((*lead, n, n)))


@reference_of(hyper_pre)
def _(x: F32, fn: F32, base: F32, scale: F32, norm: F32, *, eps: float, hc_eps: float,
      rounds: int) -> tuple[F32, F32, F32]:
    n, hc = x.shape[-2], np.float32(hc_eps)
    z = _normalized_product(x, fn, eps)
    pre = _sigmoid(z[..., :n] * scale[0] + base[:n]) + hc
    post = 2 * _sigmoid(z[..., n:2 * n] * scale[1] + base[n:2 * n])
    m = (z[..., 2 * n:] * scale[2] + base[2 * n:]).reshape(*x.shape[:-2], n, n)
    m = np.exp(m - m.max(-1, keepdims=True))
    m = m / m.sum(-1, keepdims=True) + hc
    m = m / (m.sum(-2, keepdims=True) + hc)
    for _ in range(rounds):
        m = m / (m.sum(-1, keepdims=True) + hc)
        m = m / (m.sum(-2, keepdims=True) + hc)
    return _rms_norm(_collapse(x, pre), norm, eps), post, m


def _coefficients(z: Array, scale: Array, base: Array, part: int, start: int, stop: int) -> Array:
    return z.take(-1, start, stop) * scale.take(0, part, part + 1) + base.take(0, start, stop)


def _round(m: Array, hc_eps: float) -> Array:
    m = m / (m.sum(-1, keepdims=True) + hc_eps)
    return m / (m.sum(-2, keepdims=True) + hc_eps)


@decomposition_of(hyper_pre)
def _(x: Array, fn: Array, base: Array, scale: Array, norm: Array, *, eps: float, hc_eps: float,
      rounds: int) -> tuple[Array, Array, Array]:
    b, (*lead, n, d) = x.builder, x.shape
    assert isinstance(n, int)
    assert isinstance(d, int)
    flat = x.reshape(*lead, n * d)
    z = emit(b, "rms_norm", flat, eps=eps)[0].emit("linear", fn)
    pre = _coefficients(z, scale, base, 0, 0, n).emit("sigmoid") + hc_eps
    post = _coefficients(z, scale, base, 1, n, 2 * n).emit("sigmoid") * 2.0
    m = _coefficients(z, scale, base, 2, 2 * n, (2 + n) * n).reshape(*lead, n, n)
    m = m.softmax(-1) + hc_eps
    m = m / (m.sum(-2, keepdims=True) + hc_eps)
    name = f"sinkhorn_{n}_{hc_eps}"
    body = trace(name, _round, (m.type,), Builder(name, b.module), hc_eps=hc_eps)
    b.module = b.module.with_function(body)
    m = m.emit("repeat", callee=body.name, count=rounds)
    collapsed = (pre.insert(-1) * x).sum(-2)
    (y,) = emit(b, "rms_norm", collapsed, norm, eps=eps)
    return y, post, m


@cost_of(hyper_pre)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 2 * dims.product(ins[0].shape[:-2]) * dims.product(ins[1].shape)


for _n in (4, 2):
    example(hyper_pre, TensorType((B, S, _n, 6)), TensorType(((2 + _n) * _n, _n * 6)),
            TensorType(((2 + _n) * _n,)), TensorType((3,)), TensorType((6,)), eps=1e-3,
            hc_eps=2e-3, rounds=3)

hyper_post = op("hyper_post", ("x", "y", "post", "comb"), composite=True)


@shape_of(hyper_post)
def _(x: TensorType, y: TensorType, post: TensorType, comb: TensorType) -> TensorType:
    """Streams x[B, S, N, D] and sublayer output y[B, S, D] -> post_k y + sum_j comb[j, k] x_j."""
    *lead, n, d = x.shape
    require(y.shape == (*lead, d) and post.shape == (*lead, n) and comb.shape == (*lead, n, n),
            f"y {y.shape}, post {post.shape}, comb {comb.shape} do not fit streams {x.shape}")
    return x.plain


@reference_of(hyper_post)
def _(x: F32, y: F32, post: F32, comb: F32) -> F32:
    mixed: F32 = np.einsum("...jk,...jd->...kd", comb, x)
    return post[..., None] * y[..., None, :] + mixed


@decomposition_of(hyper_post)
def _(x: Array, y: Array, post: Array, comb: Array) -> Array:
    return post.insert(-1) * y.insert(-2) + comb.transpose(0, 1, 3, 2).matmul(x)


@cost_of(hyper_post)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 2 * dims.product(ins[0].shape) * (1 + dims.product(ins[0].shape[-2:-1]))


example(hyper_post, TensorType((B, S, 3, 6)), TensorType((B, S, 6)), TensorType((B, S, 3)),
        TensorType((B, S, 3, 3)))

hyper_mix = op("hyper_mix", ("x", "y", "post", "comb", "fn", "base", "scale", "norm"),
               ("mixed", "u", "next_post", "next_comb"),
               attrs={"eps": float, "hc_eps": float, "rounds": int}, joint=True)


@shape_of(hyper_mix)
def _(x: TensorType, y: TensorType, post: TensorType, comb: TensorType, *weights: TensorType,
      **attrs: Any) -> tuple[TensorType, ...]:
    """Between two sublayers: streams of `hyper_post`, and of these the results of `hyper_pre`."""
    assert hyper_post.shape is not None
    assert hyper_pre.shape is not None
    mixed = hyper_post.shape(x, y, post, comb)
    return (mixed, *hyper_pre.shape(mixed, *weights, **attrs))  # type: ignore[arg-type, misc]


@reference_of(hyper_mix)
def _(x: F32, y: F32, post: F32, comb: F32, *weights: F32, **attrs: Any) -> tuple[F32, ...]:
    assert hyper_post.reference is not None
    assert hyper_pre.reference is not None
    mixed = hyper_post.reference(x, y, post, comb)
    return (mixed, *hyper_pre.reference(mixed, *weights, **attrs))


@decomposition_of(hyper_mix)
def _(x: Array, y: Array, post: Array, comb: Array, *weights: Array,
      **attrs: Any) -> tuple[Array, ...]:
    (mixed,) = emit(x.builder, "hyper_post", x, y, post, comb)
    return (mixed, *emit(x.builder, "hyper_pre", mixed, *weights, **attrs))


@cost_of(hyper_mix)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    assert hyper_post.cost is not None
    assert hyper_pre.cost is not None
    return hyper_post.cost(ins[:4], outs[:1]) + hyper_pre.cost((ins[0], *ins[4:]), outs[1:])


for _n in (4, 2):
    example(hyper_mix, TensorType((B, S, _n, 6)), TensorType((B, S, 6)), TensorType((B, S, _n)),
            TensorType((B, S, _n, _n)), TensorType(((2 + _n) * _n, _n * 6)),
            TensorType(((2 + _n) * _n,)), TensorType((3,)), TensorType((6,)), eps=1e-3,
            hc_eps=2e-3, rounds=3)

hyper_head = op("hyper_head", ("x", "fn", "base", "scale", "norm"),
                attrs={"eps": float, "hc_eps": float}, composite=True)


@shape_of(hyper_head)
def _(x: TensorType, fn: TensorType, base: TensorType, scale: TensorType, norm: TensorType, *,
      eps: float, hc_eps: float) -> TensorType:
    """Streams x[B, S, N, D] collapsed to the normed input [B, S, D] of the vocabulary head."""
    *lead, n, d = x.shape
    assert isinstance(n, int)
    assert isinstance(d, int)
    require(fn.shape == (n, n * d) and base.shape == (n,) and scale.shape == (1,),
            f"fn {fn.shape} does not fit {n} streams of {d}")
    return TensorType((*lead, d))


@reference_of(hyper_head)
def _(x: F32, fn: F32, base: F32, scale: F32, norm: F32, *, eps: float, hc_eps: float) -> F32:
    pre = _sigmoid(_normalized_product(x, fn, eps) * scale + base) + np.float32(hc_eps)
    return _rms_norm(_collapse(x, pre), norm, eps)


@decomposition_of(hyper_head)
def _(x: Array, fn: Array, base: Array, scale: Array, norm: Array, *, eps: float,
      hc_eps: float) -> Array:
    *lead, n, d = x.shape
    assert isinstance(n, int)
    assert isinstance(d, int)
    (flat,) = emit(x.builder, "rms_norm", x.reshape(*lead, n * d), eps=eps)
    pre = (flat.emit("linear", fn) * scale + base).emit("sigmoid") + hc_eps
    return emit(x.builder, "rms_norm", (pre.insert(-1) * x).sum(-2), norm, eps=eps)[0]


@cost_of(hyper_head)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 2 * dims.product(ins[0].shape[:-2]) * dims.product(ins[1].shape)


example(hyper_head, TensorType((B, S, 3, 6)), TensorType((3, 18)), TensorType((3,)),
        TensorType((1,)), TensorType((6,)), eps=1e-3, hc_eps=2e-3)
