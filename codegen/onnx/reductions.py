"""Rows of reductions, softmax and top-k."""

from __future__ import annotations

import numpy as np

from firstlight.codegen.onnx.elementwise import I32
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.table import ROWS, Row, row
from firstlight.codegen.onnx.values import Val
from firstlight.ir.types import TensorType

NOTHING = np.float32(-np.inf)


def _reduce(name: str) -> Row:
    def reduce(g: Graph, out: TensorType, x: Val, axis: int, keepdims: bool) -> str:
        return str(g(name, x.plain(g), [axis], keepdims=int(keepdims)))

    return reduce


ROWS.update({"reduce_sum": _reduce("ReduceSum"), "reduce_max": _reduce("ReduceMax"),
             "reduce_mean": _reduce("ReduceMean")})


@row
def softmax(g: Graph, out: TensorType, x: Val, axis: int) -> str:
    return str(g("Softmax", x.plain(g), axis=axis))


@row
def top_k(g: Graph, out: TensorType, x: Val, k: int) -> str:
    """TopK breaks ties by the lower place, says its definition; it needs k places.

    An axis that may be shorter gets k more of -inf, and -inf is what is given as place -1.
    """
    name, length = x.plain(g), x.shape[-1]
    if not isinstance(length, int) or length < k:
        name = g("Pad", name, [0] * (2 * len(x.shape) - 1) + [k], NOTHING)
    values, places = g("TopK", name, [k], outputs=2, axis=-1, largest=1, sorted=1)
    return str(g("Where", g("Equal", values, NOTHING), np.int32(-1), g("Cast", places, to=I32)))
