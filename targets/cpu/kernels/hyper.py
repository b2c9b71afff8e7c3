"""Hyper-connections: N residual streams and their mixing coefficients (spec 4.1, 4.2, 4.12)."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.dots import for_tokens, matvec
from firstlight.targets.cpu.kernels.norms import inverse_rms, normalize
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import (
    STORAGE,
    Cell,
    Expr,
    across,
    add,
    decode,
    exp,
    flat,
    get,
    hold,
    put,
    sigmoid,
    spread,
    sweep,
    tree,
    wide,
)


def hyper_pre(
    name: str, *, streams: int, width: int, eps: float, hc_eps: float, rounds: int,
    codecs: tuple[str, str, str, str] = ("f32", "f32", "f32", "f32"), decode_only: bool = False,
    lanes: int = 8,
) -> Kernel:  # fmt: skip
    """X[S, N, D], fn[(2+N)N, N*D], base[(2+N)N], scale[3], norm_w[D] -> x[S, D], post, comb.

    Args:
        rounds: (rows, columns) normalisations after the first columns: hc_sinkhorn_iters - 1.
        codecs: how fn, base, scale and norm_w are stored: f32, bf16 or f16.
        decode_only: S is always 1, and the rows of fn are shared among the threads.
    """
    n, k = streams, streams * width
    fn_codec, base_codec, scale_codec, norm_codec = codecs

    def body(*args: Expr) -> None:
        x_, fn_, base_, scale_, norm_, y_, post_, comb_, S = args
        x, y, post, comb = flat(x_), flat(y_), flat(post_), flat(comb_)
        fn, base = flat(fn_, STORAGE[fn_codec]), flat(base_, STORAGE[base_codec])
        scale, norm = flat(scale_, STORAGE[scale_codec]), flat(norm_, STORAGE[norm_codec])

        def finish(token: Expr, z: Any, z_base: Expr) -> None:
            q = _inverse_rms(x, token, k, eps, lanes)

            def logits(row: int, part: int) -> Expr:
                z_n = get(z, z_base + row, lanes=n)
                factor = spread(q * decode(scale, scale_codec, part), n)
                return z_n * factor + decode(base, base_codec, row, n)

            put(post, spread(2.0, n) * sigmoid(logits(n, 1), n), token * n, lanes=n)
            matrix = _sinkhorn([logits((2 + j) * n, 2) for j in range(n)], hc_eps, rounds)
            for j, line in enumerate(matrix):
                put(comb, line.value, (token * n + j) * n, lanes=n)
            pre = _lanes(sigmoid(logits(0, 0), n) + spread(hc_eps, n), n)
            _collapse(x, pre, y, token, width, lanes)
            out = T.bind(wide(token) * width)
            normalize(
                y, out, y, out, width, eps, lanes, lambda i, m: decode(norm, norm_codec, i, m)
            )

        _products(x, fn, fn_codec, (2 + n) * n, k, S, decode_only, lanes, finish)

    kinds = [("x", "f32"), *zip(("fn", "base", "scale", "norm_w"), codecs, strict=True)]
    pointers = [(name, STORAGE[codec]) for name, codec in kinds]
    pointers += [(name, "float32") for name in ("y", "post", "comb")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 5)


def hyper_head(
    name: str, *, streams: int, width: int, eps: float, hc_eps: float,
    codecs: tuple[str, str, str, str] = ("f32", "f32", "f32", "f32"), decode_only: bool = False,
    lanes: int = 8,
) -> Kernel:  # fmt: skip
    """X[S, N, D], fn[N, N*D], base[N], scale[1], norm_w[D] -> x[S, D]; options as in hyper_pre."""
    n, k = streams, streams * width
    fn_codec, base_codec, scale_codec, norm_codec = codecs

    def body(*args: Expr) -> None:
        x_, fn_, base_, scale_, norm_, y_, S = args
        x, y = flat(x_), flat(y_)
        fn, base = flat(fn_, STORAGE[fn_codec]), flat(base_, STORAGE[base_codec])
        scale, norm = flat(scale_, STORAGE[scale_codec]), flat(norm_, STORAGE[norm_codec])

        def finish(token: Expr, z: Any, z_base: Expr) -> None:
            q = _inverse_rms(x, token, k, eps, lanes)
            factor = spread(q * decode(scale, scale_codec, 0), n)
            logits = get(z, z_base, lanes=n) * factor + decode(base, base_codec, 0, n)
            pre = _lanes(sigmoid(logits, n) + spread(hc_eps, n), n)
            _collapse(x, pre, y, token, width, lanes)
            out = T.bind(wide(token) * width)
            normalize(
                y, out, y, out, width, eps, lanes, lambda i, m: decode(norm, norm_codec, i, m)
            )

        _products(x, fn, fn_codec, n, k, S, decode_only, lanes, finish)

    kinds = [("x", "f32"), *zip(("fn", "base", "scale", "norm_w"), codecs, strict=True)]
    pointers = [(name, STORAGE[codec]) for name, codec in kinds] + [("y", "float32")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 5)


def hyper_post(name: str, *, streams: int, width: int, tokens: int, lanes: int = 8) -> Kernel:
    """X[S, N, D], y[S, D], post[S, N], comb[S, N, N] -> X': post_k y + sum_j comb[j, k] X_j."""
    n = streams

    def body(x_: Expr, y_: Expr, post_: Expr, comb_: Expr, out_: Expr, S: Expr) -> None:
        x, y, post, comb, out = (flat(p) for p in (x_, y_, post_, comb_, out_))
        with loop(S, tokens * n * width) as token:
            base = T.bind(wide(token) * (n * width))
            gains = [T.bind(get(post, token * n + j)) for j in range(n)]
            mix = [[T.bind(get(comb, (token * n + j) * n + i)) for i in range(n)] for j in range(n)]

            def write(at: Expr, m: int) -> None:
                new = T.bind(get(y, wide(token) * width + at, lanes=m))
                old = [T.bind(get(x, base + j * width + at, lanes=m)) for j in range(n)]
                for i in range(n):
                    value = new * spread(gains[i], m)
                    for j in range(n):
                        value = T.fma(old[j], spread(mix[j][i], m), value)
                    put(out, value, base + i * width + at, lanes=m)

            sweep(width, lanes, write)

    pointers = [(name, "float32") for name in ("x", "y", "post", "comb", "out")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 4, in_place=0)


def _products(
    x: Any, fn: Any, codec: str, rows: int, k: int, S: Expr, decode_only: bool, lanes: int,
    finish: Any,
) -> None:  # fmt: skip
    """finish(token, z, base) with the products fn x of each token in z[base ..]."""
    if decode_only:
        z = T.alloc_buffer((rows,), "float32")
        matvec(x, fn, codec, rows, k, z, lanes)
        finish(T.int32(0), z, 0)
    else:
        for_tokens(x, fn, codec, rows, k, S, lanes, finish)


def _inverse_rms(x: Any, token: Expr, k: int, eps: float, lanes: int) -> Expr:
    base = T.bind(wide(token) * k)
    return inverse_rms(k, eps, lanes, lambda i, m: get(x, base + i, lanes=m))


def _collapse(x: Any, pre: list[Expr], y: Any, token: Expr, width: int, lanes: int) -> None:
    """y = sum_j pre_j X_j."""
    base = T.bind(wide(token) * (len(pre) * width))

    def write(at: Expr, m: int) -> None:
        value = get(x, base + at, lanes=m) * spread(pre[0], m)
        for j, gain in enumerate(pre[1:], 1):
            value = T.fma(get(x, base + j * width + at, lanes=m), spread(gain, m), value)
        put(y, value, wide(token) * width + at, lanes=m)

    sweep(width, lanes, write)


def _lanes(v: Expr, n: int) -> list[Expr]:
    """The lanes of a vector as scalars."""
    v = hold(v, n)
    return [hold(T.Shuffle([v], [j])) for j in range(n)] if n > 1 else [v]


def _sinkhorn(logits: list[Expr], hc_eps: float, rounds: int) -> list[Cell]:
    """The doubly normalised matrix of spec 4.2, one vector variable per row."""
    n, matrix = len(logits), []
    small = T.float32(hc_eps)
    for line in logits:
        v = hold(line, n)
        power = hold(exp(v - spread(across(v, n, T.max), n), n), n)
        matrix.append(Cell(power / spread(across(power, n, add), n) + spread(small, n), n))

    def rows() -> None:
        for line in matrix:
            v = T.bind(line.value)
            line.value = v * spread(hold(T.float32(1) / (across(v, n, add) + small)), n)

    def columns() -> None:
        whole = tree([line.value for line in matrix]) + spread(small, n)
        factor = hold(spread(1.0, n) / whole, n)
        for line in matrix:
            line.value = line.value * factor

    columns()
    with T.serial(rounds):
        rows()
        columns()
    return matrix
