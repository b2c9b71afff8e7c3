"""y_i = x W_i^T for weights of several codecs, the grouped form, and the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.activations import Rows, Vectors, weight_of
from firstlight.targets.cpu.kernels.gemv import x_copy
from firstlight.targets.cpu.kernels.layouts import PLAIN, TILE, grouped
from firstlight.targets.cpu.kernels.micro import Weight
from firstlight.targets.cpu.kernels.panel import panel_work
from firstlight.targets.cpu.kernels.schedule import parallel_by_bytes
from firstlight.targets.cpu.kernels.vecmath import Expr, fetch, get, put


def linears(
    name: str, segments: Sequence[tuple[int, str]], k: int, tokens: int, lanes: int,
    way: str = "",
) -> Kernel:  # fmt: skip
    """x [S, K], weights [N_i, K] -> y_i [S, N_i].

    Args:
        segments: (N_i, codec) of each weight.
        k: columns of all weights.
        tokens: 1 for the matrix-vector version (S is 1), else the largest S.
        lanes: f32 per vector, 8 or 16.
        way: a key of `activations.WAYS`: how activations are prepared.
    """
    weights = [weight_of(codec, 1, n, k, way) for n, codec in segments]
    return _kernel(name, weights, 1, k, tokens, lanes, PLAIN, way)


def group_linear(
    name: str, groups: int, n: int, k: int, codec: str, tokens: int, lanes: int,
    way: str = "",
) -> Kernel:  # fmt: skip
    """x [S, G, K], weight [G*N, K] whose rows g*N.. belong to group g -> y [S, G, N].

    Arguments as in `linears`.
    """
    weights = [weight_of(codec, groups, n, k, way)]
    return _kernel(name, weights, groups, k, tokens, lanes, grouped(groups), way)


def _kernel(
    name: str, weights: Sequence[Weight], groups: int, k: int, tokens: int, lanes: int, layout: str,
    way: str,
) -> Kernel:  # fmt: skip
    names = [w.pointers(f"w{i}") for i, w in enumerate(weights)]
    results = [(f"y{i}", "float32") for i in range(len(weights))]

    def body(*args: Any) -> None:
        x_pointer, *rest, count = args
        x = T.decl_buffer((count * groups, k), "float32", data=x_pointer)
        for weight, pointers in zip(weights, names, strict=True):
            weight.bind(rest[: len(pointers)])
            del rest[: len(pointers)]
        ys = [
            T.decl_buffer((count, w.count * w.n), "float32", data=y)
            for w, y in zip(weights, rest, strict=True)
        ]
        if tokens == 1:
            _vector(x, weights, ys, groups, k, lanes, way)
        else:
            _matrix(x, weights, ys, groups, k, count, tokens, lanes, way)

    pointers = [("x", "float32"), *(p for pair in names for p in pair), *results]
    layouts = (None, *(w.layout(layout) for w in weights))
    return Kernel(name, prim_func(name, pointers, body), layouts)


def _vector(
    x: Any, weights: Sequence[Weight], ys: Sequence[Any], groups: int, k: int, lanes: int,
    way: str,
) -> None:  # fmt: skip
    vectors = Vectors(x_copy(x, groups, k, weights, lanes), groups, weights, lanes,
                      way).fill()

    def segment(weight: Weight, y: Any) -> tuple[int, int, Any]:
        def tile_body(tile: Expr) -> None:
            group = T.bind(T.truncdiv(tile, T.int32(weight.tiles)))
            local = T.bind(tile - group * weight.tiles)
            values = vectors.tile(weight, tile, group if groups > 1 else 0)
            store_rows(y, 0, group * weight.n, local, weight.n, values, lanes)

        return weight.count * weight.tiles, weight.tile_bytes, tile_body

    parallel_by_bytes([segment(w, y) for w, y in zip(weights, ys, strict=True)])


def _matrix(
    x: Any, weights: Sequence[Weight], ys: Sequence[Any], groups: int, k: int, count: Expr,
    tokens: int, lanes: int, way: str,
) -> None:  # fmt: skip
    rows = Rows.given(x, tokens * groups, k, weights, lanes, way, count * groups)

    def segment(weight: Weight, y: Any) -> tuple[int, int, Any]:
        def finish(token: Expr, group: Expr, tile: Expr, values: Sequence[Expr]) -> None:
            store_rows(y, token, group * weight.n, tile, weight.n, values, lanes)

        def soon(token: Expr, group: Expr, tile: Expr) -> None:
            fetch(y[token, group * weight.n + tile * TILE])

        return panel_work(rows, weight, groups, count, tokens, lanes, finish, soon)

    parallel_by_bytes([segment(w, y) for w, y in zip(weights, ys, strict=True)])


def store_rows(
    y: Any, row: Expr, base: Expr, tile: Expr, n: int, values: Sequence[Expr], lanes: int,
    add: bool = False,
) -> None:  # fmt: skip
    """y[row, base + 16 tile ...] = (or, with `add`, +=) values, up to column n of the matrix."""
    column = base + tile * TILE

    def whole() -> None:
        for h, value in zip(range(0, TILE, lanes), values, strict=True):
            old = get(y, row, column + h, lanes=lanes)
            put(y, old + value if add else value, row, column + h, lanes=lanes)

    def last() -> None:
        cells = T.alloc_buffer((TILE,), "float32")
        for h, value in zip(range(0, TILE, lanes), values, strict=True):
            put(cells, value, h, lanes=lanes)
        with T.serial(n % TILE) as i:
            value = y[row, column + i] + cells[i] if add else cells[i]
            T.buffer_store(y, value, [row, column + i])

    if n % TILE == 0:
        whole()
        return
    with T.If(tile < n // TILE):
        with T.Then():
            whole()
        with T.Else():
            last()
