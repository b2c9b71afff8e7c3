"""Several projections of one vector side by side: x is read once, the weights in one stream."""

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

linears = op("linears", ("x", "ws*"), ("ys*",), composite=True)


@shape_of(linears)
def _(x: TensorType, *ws: TensorType) -> tuple[TensorType, ...]:
    """x[..., K], w_i[N_i, K] -> y_i[..., N_i]."""
    for w in ws:
        require(w.rank == 2 and x.shape[-1] == w.shape[1], f"x {x.shape} does not fit {w.shape}")
    return tuple(TensorType((*x.shape[:-1], w.shape[0])) for w in ws)


@reference_of(linears)
def _(x: F32, *ws: F32) -> tuple[F32, ...]:
    return tuple(x @ w.T for w in ws)


@decomposition_of(linears)
def _(x: Array, *ws: Array) -> tuple[Array, ...]:
    return tuple(x.emit("linear", w) for w in ws)


@cost_of(linears)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 2 * dims.product(ins[0].shape[:-1]) * sum(dims.product(w.shape) for w in ins[1:])


example(linears, TensorType((dims.B, dims.S, 6)), TensorType((5, 6)), TensorType((3, 6)))
