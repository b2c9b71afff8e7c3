"""RMSNorm (spec 4.3), alone and followed by rope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.rope import head_groups, table
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import (
    STORAGE,
    Expr,
    decode,
    flat,
    get,
    hold,
    put,
    spread,
    sum_over,
    sweep,
    wide,
)


def inverse_rms(width: int, eps: float, lanes: int, value: Callable[[Expr, int], Expr]) -> Expr:
    """1 / sqrt(mean of value(i, lanes)**2 + eps), a float32."""

    def square(i: Expr, n: int) -> Expr:
        v = hold(value(i, n), n)
        return v * v

    mean = sum_over(width, lanes, square) * T.float32(1.0 / width)
    return hold(T.float32(1) / T.sqrt(mean + T.float32(eps)))


def normalize(
    source: Any, base: Expr, out: Any, out_base: Expr, width: int, eps: float, lanes: int,
    weight: Callable[[Expr, int], Expr] | None = None,
) -> None:  # fmt: skip
    """out[out_base ..] = RMSNorm of source[base ..]; the two may be the same place."""
    scale = inverse_rms(width, eps, lanes, lambda i, n: get(source, base + i, lanes=n))

    def write(i: Expr, n: int) -> None:
        v = get(source, base + i, lanes=n) * spread(scale, n)
        put(out, v if weight is None else v * weight(i, n), out_base + i, lanes=n)

    sweep(width, lanes, write)


def rms_norm(
    name: str, *, width: int, eps: float, tokens: int, heads: int = 1, weight: str | None = None,
    lanes: int = 8,
) -> Kernel:  # fmt: skip
    """x[S, heads, width], [w[width] stored as `weight`: f32, bf16, f16] -> y."""
    weights = [] if weight is None else [("w", STORAGE[weight])]

    def body(*args: Expr) -> None:
        x_, *w_, y_, S = args
        x, y = flat(x_), flat(y_)
        w = _weight(w_, weight)
        with loop(S * heads, tokens * heads * width) as row:
            base = T.bind(wide(row) * width)
            normalize(x, base, y, base, width, eps, lanes, w)

    pointers = [("x", "float32"), *weights, ("y", "float32")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * (1 + len(weights)), in_place=0)


def norm_rope(
    name: str, *, width: int, pairs: int, eps: float, tokens: int, heads: int = 1,
    weight: str | None = None, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """x[S, heads, width], [w[width]], positions[S] i32, freqs[pairs] -> rope(rms_norm(x, w))."""
    groups, per_group = head_groups(heads, width)
    weights = [] if weight is None else [("w", STORAGE[weight])]

    def body(*args: Expr) -> None:
        x_, *w_, positions_, freqs_, y_, S = args
        x, freqs, y = flat(x_), flat(freqs_), flat(y_)
        positions = flat(positions_, "int32")
        w = _weight(w_, weight)
        with loop(S * groups, tokens * heads * width) as task:
            token, first = T.bind(task // groups), T.bind(task % groups * per_group)
            turn = table(freqs, pairs, positions[token], lanes)
            with T.serial(first, T.min(first + per_group, heads)) as head:
                base = T.bind(wide(token * heads + head) * width)
                normalize(x, base, y, base, width, eps, lanes, w)
                turn.rotate(y, base + (width - 2 * pairs), lanes)

    pointers = [("x", "float32"), *weights, ("positions", "int32"), ("freqs", "float32"),
                ("y", "float32")]  # fmt: skip
    return Kernel(name, prim_func(name, pointers, body), (None,) * (3 + len(weights)), in_place=0)


def _weight(pointers: list[Expr], codec: str | None) -> Callable[[Expr, int], Expr] | None:
    """Reader of an optional weight operand."""
    if codec is None:
        return None
    buffer = flat(pointers[0], STORAGE[codec])
    return lambda i, n: decode(buffer, codec, i, n)
