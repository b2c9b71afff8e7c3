"""RMSNorm (spec 4.3) and rotary position embedding (spec 4.4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array, concat, emit
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

rms_norm = op("rms_norm", ("x", "w?"), attrs={"eps": float}, composite=True)


@shape_of(rms_norm)
def _(x: TensorType, w: TensorType | None = None, *, eps: float) -> TensorType:
    """x[..., d] / sqrt(mean(x^2) + eps), times w[d] if given."""
    require(w is None or w.shape == x.shape[-1:], "w has the width of x")
    return x.plain


@reference_of(rms_norm)
def _(x: F32, w: F32 | None = None, *, eps: float) -> F32:
    y = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(eps))
    normed: F32 = y if w is None else y * w
    return normed


@decomposition_of(rms_norm)
def _(x: Array, w: Array | None = None, *, eps: float) -> Array:
    y = x * ((x * x).mean(-1, keepdims=True) + eps).emit("rsqrt")
    return y if w is None else y * w


@cost_of(rms_norm)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 4 * dims.product(ins[0].shape)


example(rms_norm, TensorType((B, S, 6)), TensorType((6,)), eps=1e-3)
example(rms_norm, TensorType((B, S, 6)), eps=1e-3)

rope = op("rope", ("x", "positions", "freqs"), attrs={"inverse": bool}, composite=True)


@shape_of(rope)
def _(x: TensorType, positions: TensorType, freqs: TensorType, *, inverse: bool) -> TensorType:
    """Rotates the last r = 2 * len(freqs) values of x[B, S, (H,) d] in adjacent pairs."""
    half, width = freqs.shape[0], x.shape[-1]
    require(isinstance(half, int) and isinstance(width, int) and 2 * half <= width,
            f"{freqs.shape[0]} pairs do not fit in {x.shape[-1]} values")
    require(positions.shape == x.shape[:2] and positions.dtype == "i32", "positions are [B, S] i32")
    return x.plain


@reference_of(rope)
def _(x: F32, positions: I32, freqs: F32, *, inverse: bool) -> F32:
    # float32 product on purpose: it is what the model was trained with (spec 4.4, precision)
    angle = positions.astype(np.float32)[..., None] * freqs
    angle = angle.reshape(*positions.shape, *[1] * (x.ndim - 3), len(freqs))
    turn = np.exp((-1j if inverse else 1j) * angle.astype(np.float64))
    out = x.copy()
    tail = out[..., -2 * len(freqs):]
    pairs = (tail[..., 0::2] + 1j * tail[..., 1::2]) * turn
    tail[..., 0::2], tail[..., 1::2] = pairs.real, pairs.imag
    return out


@decomposition_of(rope)
def _(x: Array, positions: Array, freqs: Array, *, inverse: bool) -> Array:
    half, width, rank = freqs.dim(0), x.dim(-1), len(x.shape)
    angle = positions.cast("f32").reshape(*positions.shape, *[1] * (rank - 2)) * freqs
    cos, sin = angle.emit("cos"), angle.emit("sin")
    if inverse:
        sin = -sin
    kept = width - 2 * half
    pairs = x.take(-1, kept, width).reshape(*x.shape[:-1], half, 2)
    a = pairs.take(-1, 0, 1).reshape(*x.shape[:-1], half)
    b = pairs.take(-1, 1, 2).reshape(*x.shape[:-1], half)
    out = concat([(a * cos - b * sin).insert(-1), (b * cos + a * sin).insert(-1)], -1)
    out = out.reshape(*x.shape[:-1], 2 * half)
    return concat([x.take(-1, 0, kept), out], -1) if kept else out


@cost_of(rope)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 3 * dims.product(ins[0].shape)


for _inverse in (False, True):
    for _width in (10, 4):
        example(rope, TensorType((B, S, 3, _width)), TensorType((B, S), "i32"), TensorType((2,)),
                inverse=_inverse)

norm_rope = op("norm_rope", ("x", "w?", "positions", "freqs"), attrs={"eps": float},
               composite=True)


@shape_of(norm_rope)
def _(x: TensorType, *rest: TensorType, eps: float) -> TensorType:
    """rope(rms_norm(x, w)): queries (no w), window keys (w)."""
    require(len(rest) in (2, 3), "x, [w], positions, freqs")
    assert rms_norm.shape is not None
    assert rope.shape is not None
    normed = rms_norm.shape(x, *rest[:-2], eps=eps)
    return rope.shape(normed, *rest[-2:], inverse=False)  # type: ignore[return-value]


@reference_of(norm_rope)
def _(x: F32, *rest: NDArray[np.generic], eps: float) -> F32:
    assert rms_norm.reference is not None
    assert rope.reference is not None
    return rope.reference(rms_norm.reference(x, *rest[:-2], eps=eps), *rest[-2:],  # type: ignore
                          inverse=False)


@decomposition_of(norm_rope)
def _(x: Array, *rest: Array, eps: float) -> Array:
    (normed,) = emit(x.builder, "rms_norm", x, *rest[:-2], eps=eps)
    return normed.emit("rope", *rest[-2:], inverse=False)


@cost_of(norm_rope)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 7 * dims.product(ins[0].shape)


example(norm_rope, TensorType((B, S, 3, 10)), TensorType((B, S), "i32"), TensorType((2,)), eps=1e-3)
example(norm_rope, TensorType((B, S, 10)), TensorType((10,)), TensorType((B, S), "i32"),
        TensorType((2,)), eps=1e-3)
