"""Rows of the matrix products."""

from __future__ import annotations

import numpy as np

from firstlight.codegen.onnx.elementwise import F32
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.table import row
from firstlight.codegen.onnx.values import Val
from firstlight.ir.types import TensorType

INT64, BOOL = 7, 9
PICKED = 32
"""Most (token, expert) pairs for which each pair's matrix is copied out of the stack."""


@row
def matmul(g: Graph, out: TensorType, a: Val, b: Val, transpose_b: bool) -> str:
    return str(g("MatMul", a.plain(g), b.swapped(g) if transpose_b else b.plain(g)))


@row
def linear(g: Graph, out: TensorType, x: Val, w: Val) -> str:
    return str(g("MatMul", x.plain(g), w.swapped(g)))


@row
def group_linear(g: Graph, out: TensorType, x: Val, w: Val) -> str:
    """x[..., G, K] as [G, tokens, K] times [G, K, N]."""
    groups, k = x.shape[-2:]
    assert isinstance(groups, int)
    assert isinstance(k, int)
    by_token = g("Reshape", x.plain(g), [-1, groups, k])
    y = g("MatMul", g("Transpose", by_token, perm=[1, 0, 2]), w.swapped(g, groups))
    return str(g("Reshape", g("Transpose", y, perm=[1, 0, 2]), g.shape(out.shape)))


@row
def expert_linear(g: Graph, out: TensorType, x: Val, w: Val, index: Val) -> str:
    """A few pairs copy the matrices they want; many go through a loop over the experts in use."""
    shared = len(x.shape) == len(index.shape)
    pairs = 1
    for extent in index.shape:
        pairs = pairs * extent if isinstance(extent, int) and pairs else 0
    if 0 < pairs <= PICKED:
        matrices = w.picked(g, index.plain(g), len(index.shape))
        axes = [len(index.shape) - 1, len(index.shape)] if shared else [len(index.shape)]
        y = g("MatMul", g("Unsqueeze", x.plain(g), axes), matrices)
        return str(g("Squeeze", y, [len(index.shape)]))
    return _by_expert(g, out, x, w, index, shared)


def _by_expert(g: Graph, out: TensorType, x: Val, w: Val, index: Val, shared: bool) -> str:
    """For each expert in use: its pairs' rows, times its matrix, put in their places."""
    many, k, n = index.shape[-1], x.shape[-1], out.shape[-1]
    assert isinstance(many, int)
    assert isinstance(k, int)
    assert isinstance(n, int)
    flat = g("Cast", g("Reshape", index.plain(g), [-1]), to=INT64)   # as Unique has it
    rows = g("Reshape", x.plain(g), [-1, k])
    used = g("Unique", flat, outputs=4, axis=0, sorted=1)[0]
    start = g("Expand", np.float32(0), g("Concat", g("Shape", flat), [n], axis=0))
    body = g.inside()
    turn, going, so_far = (body.unique(f"{g.loc}/{name}") for name in ("turn", "going", "so_far"))
    expert = body("Gather", used, turn, axis=0)
    pairs = body("Squeeze", body("NonZero", body("Equal", flat, expert)), [0])
    mine = body("Div", pairs, np.int64(many)) if shared else pairs
    product = body("MatMul", body("Gather", rows, mine, axis=0), w.picked(body, expert, 0))
    filled = body("ScatterND", so_far, body("Unsqueeze", pairs, [1]), product)
    still = body("Identity", going)
    info = g.onnx.helper.make_tensor_value_info
    graph = g.onnx.helper.make_graph(
        body.nodes, body.unique(f"{g.loc}/experts"),
        [info(turn, INT64, []), info(going, BOOL, []), info(so_far, F32, ["pairs", n])],
        [info(still, BOOL, []), info(filled, F32, ["pairs", n])])
    times = g("Squeeze", g("Shape", used), [0])
    y = g("Loop", times, np.bool_(True), start, body=graph)
    return str(g("Reshape", y, g.shape(out.shape)))
