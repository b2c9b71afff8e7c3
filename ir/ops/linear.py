"""Matrix products. Weights are [out, in] (``y = x W^T``) and may carry a storage codec."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.builder import require
from firstlight.ir.ops.elementwise import broadcast_shapes
from firstlight.ir.ops.shape import free
from firstlight.ir.registry import cost_of, op, reference_of, shape_of
from firstlight.ir.types import TensorType

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def inner_products(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    """A multiply and an add per result element and inner element."""
    return 2 * dims.product(outs[0].shape) * dims.product(ins[0].shape[-1:])


matmul = op("matmul", ("a", "b"), attrs={"transpose_b": bool})


@shape_of(matmul)
def _(a: TensorType, b: TensorType, transpose_b: bool) -> TensorType:
    """[..., M, K] x [..., K, N] (or [..., N, K] with transpose_b) -> [..., M, N]."""
    n, k = (b.shape[-2], b.shape[-1]) if transpose_b else (b.shape[-1], b.shape[-2])
    require(a.shape[-1] == k, f"the inner axes are {a.shape[-1]} and {k}")
    return TensorType((*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], n))


@reference_of(matmul)
def _(a: F32, b: F32, transpose_b: bool) -> F32:
    y: F32 = np.matmul(a, np.swapaxes(b, -1, -2) if transpose_b else b)
    return y


cost_of(matmul)(inner_products)


linear = op("linear", ("x", "w"))


@shape_of(linear)
def _(x: TensorType, w: TensorType) -> TensorType:
    """x[..., K], w[N, K] -> [..., N]."""
    require(w.rank == 2 and x.shape[-1] == w.shape[1], f"x {x.shape} does not fit w {w.shape}")
    return TensorType((*x.shape[:-1], w.shape[0]))


@reference_of(linear)
def _(x: F32, w: F32) -> F32:
    return x @ w.T


cost_of(linear)(inner_products)


group_linear = op("group_linear", ("x", "w"))


@shape_of(group_linear)
def _(x: TensorType, w: TensorType) -> TensorType:
    """Block-diagonal: x[..., G, K], w[G * N, K] -> [..., G, N]; group g has rows g*N.. of w."""
    groups, k = x.shape[-2], x.shape[-1]
    rows = w.shape[0]
    require(isinstance(groups, int) and isinstance(rows, int) and rows % groups == 0
            and w.shape[1] == k, f"x {x.shape} does not fit w {w.shape}")
    assert isinstance(groups, int)
    assert isinstance(rows, int)
    return TensorType((*x.shape[:-1], rows // groups))


@reference_of(group_linear)
def _(x: F32, w: F32) -> F32:
    y: F32 = np.einsum("...gk,gnk->...gn", x, w.reshape(x.shape[-2], -1, x.shape[-1]),
                       optimize=True)
    return y


cost_of(group_linear)(inner_products)


expert_linear = op("expert_linear", ("x", "w", "index"))


@shape_of(expert_linear)
def _(x: TensorType, w: TensorType, index: TensorType) -> TensorType:
    """y[..., a, :] = w[index[..., a]] x, for x[..., K] (shared) or x[..., A, K]; w[E, N, K]."""
    require(x.shape[-1] == w.shape[2], f"x {x.shape} does not fit w {w.shape}")
    lead = x.shape[:-1]
    require(index.dtype == "i32" and lead in (index.shape, index.shape[:-1]),
            f"index {index.shape} does not fit x {x.shape}")
    return TensorType((*index.shape, w.shape[1]))


@reference_of(expert_linear)
def _(x: F32, w: F32, index: I32) -> F32:
    if x.ndim == index.ndim:
        x = np.broadcast_to(x[..., None, :], (*index.shape, x.shape[-1]))
    y = np.empty((*index.shape, w.shape[1]), np.float32)
    for expert in np.unique(index):
        chosen = index == expert
        y[chosen] = x[chosen] @ w[expert].T
    return y


cost_of(expert_linear)(inner_products)


embedding = op("embedding", ("table", "ids"))


@shape_of(embedding)
def _(table: TensorType, ids: TensorType) -> TensorType:
    """Row ids of table[V, D], ids i32 [...] -> [..., D]."""
    require(table.rank == 2 and ids.dtype == "i32", "table is [V, D] and ids are i32")
    return TensorType((*ids.shape, table.shape[1]), table.dtype)


@reference_of(embedding)
def _(table: NDArray[np.generic], ids: I32) -> NDArray[np.generic]:
    return table[ids]


cost_of(embedding)(free)
