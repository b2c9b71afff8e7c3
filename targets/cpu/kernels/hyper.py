"""Hyper-connections: N residual streams and their mixing coefficients (spec 4.1, 4.2, 4.12)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.dots import TOKENS, Columns, for_tokens, matvec
from firstlight.targets.cpu.kernels.norms import inverse_rms, normalize
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.sinkhorn import sinkhorn, together
from firstlight.targets.cpu.kernels.vecmath import (
    STORAGE,
    Expr,
    clear,
    decode,
    flat,
    get,
    hold,
    put,
    sigmoid,
    spread,
    sweep,
    wide,
)

Codecs = tuple[str, str, str, str]
PLAIN: Codecs = ("f32", "f32", "f32", "f32")

Finish = Callable[[Expr, Expr, Any, int], None]
"""(first, count, z, most): to be called with the products of `count` <= `most` tokens, one token's
after the other's."""

COLUMNS = 256
"""Of each stream, that are mixed and then multiplied: four streams of four tokens are a third of
the nearest cache, and small models have enough blocks of them for some threads."""


def hyper_pre(
    name: str, *, streams: int, width: int, eps: float, hc_eps: float, rounds: int,
    codecs: Codecs = PLAIN, decode_only: bool = False, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """X[S, N, D], fn[(2+N)N, N*D], base[(2+N)N], scale[3], norm_w[D] -> x[S, D], post, comb.

    Args:
        rounds: (rows, columns) normalisations after the first columns: hc_sinkhorn_iters - 1.
        codecs: how fn, base, scale and norm_w are stored: f32, bf16 or f16.
        decode_only: S is always 1, and the rows of fn are shared among the threads.
    """
    n = streams

    def body(*args: Expr) -> None:
        x_, *weights, y_, post_, comb_, S = args
        x = flat(x_)
        finish = _Coefficients(x, n, width, weights, codecs, eps, hc_eps, lanes).sublayer(
            flat(y_), flat(post_), flat(comb_), rounds)
        _products(x, weights[0], codecs[0], (2 + n) * n, Columns(n * width), S, decode_only, lanes,
                  finish)

    pointers = [("x", "float32"), *_weights(codecs)]
    pointers += [(name, "float32") for name in ("y", "post", "comb")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 5)


def hyper_mix(
    name: str, *, streams: int, width: int, eps: float, hc_eps: float, rounds: int,
    codecs: Codecs = PLAIN, decode_only: bool = False, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """`hyper_post` of one sublayer and `hyper_pre` of the next, with the arguments of both.

    Streams are mixed some columns at a time, which are multiplied with fn while they are in the
    nearest cache; of one token threads share the columns.
    """
    n = streams

    def body(*args: Expr) -> None:
        x_, y_, post_, comb_, *weights, mixed_, u_, next_post_, next_comb_, S = args
        mixed = flat(mixed_)
        mix = _mixer(flat(x_), flat(y_), flat(post_), flat(comb_), mixed, n, width, lanes)
        finish = _Coefficients(mixed, n, width, weights, codecs, eps, hc_eps, lanes).sublayer(
            flat(u_), flat(next_post_), flat(next_comb_), rounds)
        size = min(width, COLUMNS)
        _products(mixed, weights[0], codecs[0], (2 + n) * n, Columns(width, n, size, mix), S,
                  decode_only, lanes, finish)

    pointers = [(name, "float32") for name in ("x", "y", "post", "comb")] + _weights(codecs)
    pointers += [(name, "float32") for name in ("mixed", "u", "next_post", "next_comb")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 8, in_place=0)


def hyper_head(
    name: str, *, streams: int, width: int, eps: float, hc_eps: float, codecs: Codecs = PLAIN,
    decode_only: bool = False, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """X[S, N, D], fn[N, N*D], base[N], scale[1], norm_w[D] -> x[S, D]; options as in hyper_pre."""
    n = streams

    def body(*args: Expr) -> None:
        x_, *weights, y_, S = args
        x = flat(x_)
        finish = _Coefficients(x, n, width, weights, codecs, eps, hc_eps, lanes).head(flat(y_))
        _products(x, weights[0], codecs[0], n, Columns(n * width), S, decode_only, lanes, finish)

    pointers = [("x", "float32"), *_weights(codecs), ("y", "float32")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 5)


def hyper_post(name: str, *, streams: int, width: int, tokens: int, lanes: int = 8) -> Kernel:
    """X[S, N, D], y[S, D], post[S, N], comb[S, N, N] -> X': post_k y + sum_j comb[j, k] X_j."""
    n = streams

    def body(x_: Expr, y_: Expr, post_: Expr, comb_: Expr, out_: Expr, S: Expr) -> None:
        x, y, post, comb, out = (flat(p) for p in (x_, y_, post_, comb_, out_))
        mix = _mixer(x, y, post, comb, out, n, width, lanes)
        with loop(S, tokens * n * width) as token:
            mix(token, 0, width)

    pointers = [(name, "float32") for name in ("x", "y", "post", "comb", "out")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 4, in_place=0)


def _mixer(
    x: Any, y: Any, post: Any, comb: Any, out: Any, n: int, width: int, lanes: int
) -> Callable[[Expr, Expr, int], None]:
    """mix(token, first, count): post_k y + sum_j comb[j, k] X_j of these columns."""

    def mix(token: Expr, first: Expr, count: int) -> None:
        base = T.bind(wide(token) * (n * width) + first)
        below = T.bind(wide(token) * width + first)
        gains = [T.bind(get(post, token * n + j)) for j in range(n)]
        factors = [[T.bind(get(comb, (token * n + j) * n + i)) for i in range(n)]
                   for j in range(n)]

        def write(at: Expr, m: int) -> None:
            new = T.bind(get(y, below + at, lanes=m))
            old = [T.bind(get(x, base + j * width + at, lanes=m)) for j in range(n)]
            for i in range(n):
                value = new * spread(gains[i], m)
                for j in range(n):
                    value = T.fma(old[j], spread(factors[j][i], m), value)
                put(out, value, base + i * width + at, lanes=m)

        sweep(count, lanes, write)

    return mix


class _Coefficients:
    """What products with fn become, and what is made of the streams x with them."""

    def __init__(self, x: Any, n: int, width: int, weights: Sequence[Expr], codecs: Codecs,
                 eps: float, hc_eps: float, lanes: int) -> None:
        self.x, self.n, self.width, self.lanes = x, n, width, lanes
        self.eps, self.hc_eps = eps, hc_eps
        self._codecs = codecs[1:]
        self._base, self._scale, self._norm = (
            flat(p, STORAGE[c]) for p, c in zip(weights[1:], codecs[1:], strict=True))

    def sublayer(self, y: Any, post: Any, comb: Any, rounds: int) -> Finish:
        """The results of `hyper_pre`."""
        n = self.n

        def finish(first: Expr, count: Expr, z: Any, most: int) -> None:
            line, rows = most * n, (2 + n) * n      # of matrices: a line of each token
            matrices = T.alloc_buffer((n * line,), "float32")
            gains = T.alloc_buffer((line,), "float32")
            clear(matrices, 0, n * line, self.lanes)
            with T.serial(count) as t:
                q = self._inverse_rms(first + t)
                put(gains, self._logits(z, t * rows, q, 0, 0), t * n, lanes=n)
                value = spread(2.0, n) * sigmoid(self._logits(z, t * rows, q, n, 1), n)
                put(post, value, (first + t) * n, lanes=n)
                for j in range(n):
                    put(matrices, self._logits(z, t * rows, q, (2 + j) * n, 2), j * line + t * n,
                        lanes=n)
            some = together(n, most, self.lanes)
            with T.serial(most // some) as group:
                sinkhorn(matrices, group * (some * n), line, n, some, self.hc_eps, rounds)
            with T.serial(count) as t:
                for j in range(n):
                    put(comb, get(matrices, j * line + t * n, lanes=n), ((first + t) * n + j) * n,
                        lanes=n)
                self._collapse(y, first + t, get(gains, t * n, lanes=n))

        return finish

    def head(self, y: Any) -> Finish:
        """The result of `hyper_head`."""
        def finish(first: Expr, count: Expr, z: Any, _: int) -> None:
            with T.serial(count) as t:
                q = self._inverse_rms(first + t)
                self._collapse(y, first + t, self._logits(z, t * self.n, q, 0, 0))

        return finish

    def _inverse_rms(self, token: Expr) -> Expr:
        k = self.n * self.width
        base = T.bind(wide(token) * k)
        return inverse_rms(k, self.eps, self.lanes, lambda i, m: get(self.x, base + i, lanes=m))

    def _logits(self, z: Any, at: Expr, q: Expr, row: int, part: int) -> Expr:
        """n of them, of the rows from `row` on, whose factor is scale[part]."""
        n, (base, scale, _) = self.n, self._codecs
        factor = spread(q * decode(self._scale, scale, part), n)
        return get(z, at + row, lanes=n) * factor + decode(self._base, base, row, n)

    def _collapse(self, y: Any, token: Expr, logits: Expr) -> None:
        """y = RMSNorm of sum_j pre_j X_j."""
        n, lanes = self.n, self.lanes
        pre = _lanes(sigmoid(logits, n) + spread(self.hc_eps, n), n)
        base, out = T.bind(wide(token) * (n * self.width)), T.bind(wide(token) * self.width)

        def write(at: Expr, m: int) -> None:
            value = get(self.x, base + at, lanes=m) * spread(pre[0], m)
            for j, gain in enumerate(pre[1:], 1):
                value = T.fma(get(self.x, base + j * self.width + at, lanes=m), spread(gain, m),
                              value)
            put(y, value, out + at, lanes=m)

        sweep(self.width, lanes, write)
        normalize(y, out, y, out, self.width, self.eps, lanes,
                  lambda i, m: decode(self._norm, self._codecs[2], i, m))


def _weights(codecs: Codecs) -> list[tuple[str, str]]:
    return [(name, STORAGE[codec])
            for name, codec in zip(("fn", "base", "scale", "norm_w"), codecs, strict=True)]


def _lanes(v: Expr, n: int) -> list[Expr]:
    """The lanes of a vector as scalars."""
    v = hold(v, n)
    return [hold(T.Shuffle([v], [j])) for j in range(n)] if n > 1 else [v]


def _products(
    x: Any, fn_: Expr, codec: str, rows: int, columns: Columns, S: Expr, decode_only: bool,
    lanes: int, finish: Finish,
) -> None:  # fmt: skip
    fn = flat(fn_, STORAGE[codec])
    if decode_only:
        z = T.alloc_buffer((rows,), "float32")
        matvec(x, fn, codec, rows, columns, z, lanes)
        finish(T.int32(0), T.int32(1), z, 1)
    else:
        for_tokens(x, fn, codec, rows, columns, S, lanes,
                   lambda first, count, z: finish(first, count, z, TOKENS))
