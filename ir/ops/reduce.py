"""Reductions, softmax, top-k."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.builder import require
from firstlight.ir.registry import cost_of, op, reference_of, shape_of
from firstlight.ir.types import TensorType

F32 = NDArray[np.float32]

_REDUCERS = {"reduce_sum": np.sum, "reduce_max": np.max, "reduce_mean": np.mean}


def _reduced(x: TensorType, axis: int, keepdims: bool) -> TensorType:
    require(0 <= axis < x.rank, f"axis {axis} of a rank {x.rank} tensor")
    kept = (1,) if keepdims else ()
    return TensorType((*x.shape[:axis], *kept, *x.shape[axis + 1:]), x.dtype)


def _reader(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return dims.product(ins[0].shape)


for _name, _f in _REDUCERS.items():
    _info = op(_name, ("x",), attrs={"axis": int, "keepdims": bool})
    _info.shape = _reduced
    _info.reference = lambda x, axis, keepdims, f=_f: f(x, axis=axis, keepdims=keepdims)
    _info.cost = _reader

softmax = op("softmax", ("x",), attrs={"axis": int})


@shape_of(softmax)
def _(x: TensorType, axis: int) -> TensorType:
    require(0 <= axis < x.rank, f"axis {axis} of a rank {x.rank} tensor")
    return x.plain


@reference_of(softmax)
def _(x: F32, axis: int) -> F32:
    e = np.exp(x - x.max(axis, keepdims=True))
    y: F32 = (e / e.sum(axis, keepdims=True)).astype(np.float32)
    return y


@cost_of(softmax)
def _(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    return 5 * dims.product(outs[0].shape)


top_k = op("top_k", ("x",), attrs={"k": int})


@shape_of(top_k)
def _(x: TensorType, k: int) -> TensorType:
    """Places of the k largest of the last axis, in descending order, ties to the lower place.

    A place that holds -inf, or that does not exist (k beyond the axis), is given as -1.
    """
    require(k >= 1 and x.rank >= 1, "k is at least 1")
    return TensorType((*x.shape[:-1], k), "i32")


@reference_of(top_k)
def _(x: F32, k: int) -> NDArray[np.int32]:
    order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    found = np.take_along_axis(x, order, -1) > -np.inf
    places = np.where(found, order, -1).astype(np.int32)
    missing = k - places.shape[-1]
    return np.pad(places, [(0, 0)] * (x.ndim - 1) + [(0, missing)], constant_values=-1)


cost_of(top_k)(_reader)
