"""The expert gate (spec 4.11): which experts a token goes to, and with what weights."""

from __future__ import annotations

from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.ir.composites.moe import TINY
from firstlight.targets.cpu.kernels.dots import Columns, dot_tile, for_tokens, matvec
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import (
    STORAGE,
    Cell,
    Expr,
    decode,
    flat,
    get,
    hold,
    put,
    softplus,
    sweep,
    wide,
)


def route(
    name: str, *, experts: int, width: int, k: int, scale: float, gate: str = "f32",
    bias: str = "f32", decode_only: bool = False, lanes: int = 8,
) -> Kernel:  # fmt: skip
    """x[S,D], gate[E,D], bias[E] -> idx[S,k] i32, weights[S,k].

    The k largest sqrt(softplus(gate x)) + bias in descending order, ties to the lower index;
    weights are the scores without bias, with the sum `scale`.

    Args:
        gate, bias: how these weights are stored: f32, bf16 or f16.
        decode_only: S is always 1, and the experts are shared among the threads.
    """

    def body(x_: Expr, gate_: Expr, bias_: Expr, idx_: Expr, weights_: Expr, S: Expr) -> None:
        x, w, offsets = flat(x_), flat(gate_, STORAGE[gate]), flat(bias_, STORAGE[bias])
        idx, weights = flat(idx_, "int32"), flat(weights_)

        def finish(token: Expr, z: Any, base: Expr) -> None:
            scores = T.alloc_buffer((experts,), "float32")
            keys = T.alloc_buffer((experts,), "float32")

            def score(i: Expr, n: int) -> None:
                s = hold(T.sqrt(softplus(get(z, base + i, lanes=n), n)), n)
                put(scores, s, i, lanes=n)
                put(keys, s + decode(offsets, bias, i, n), i, lanes=n)

            sweep(experts, lanes, score)
            out = T.bind(wide(token) * k)
            _largest(keys, experts, k, idx, out)
            with T.serial(k) as i:
                put(weights, scores[idx[out + i]], out + i)
            _normalize(weights, out, k, scale)

        if decode_only:
            z = T.alloc_buffer((experts,), "float32")
            matvec(x, w, gate, experts, Columns(width), z, lanes)
            finish(T.int32(0), z, 0)
            return

        def each(first: Expr, count: Expr, z: Any) -> None:
            with T.serial(count) as t:
                finish(first + t, z, t * experts)

        for_tokens(x, w, gate, experts, Columns(width), S, lanes, each)

    pointers = [("x", "float32"), ("gate", STORAGE[gate]), ("bias", STORAGE[bias]),
                ("idx", "int32"), ("weights", "float32")]  # fmt: skip
    return Kernel(name, prim_func(name, pointers, body), (None,) * 3)


def route_hash(
    name: str, *, experts: int, width: int, k: int, scale: float, tokens: int, gate: str = "f32",
    table: str = "i64", lanes: int = 8,
) -> Kernel:  # fmt: skip
    """x[S,D], gate[E,D], table[V,k], tokens[S] i32 -> idx[S,k] i32 = table[tokens], weights[S,k].

    Only the gate rows of the listed experts are read. `table` is stored as i32 or i64.
    """
    rows = 3 if k % 3 == 0 else 2 if k % 2 == 0 else 1

    def body(x_: Expr, gate_: Expr, table_: Expr, tokens_: Expr, idx_: Expr, weights_: Expr,
             S: Expr) -> None:  # fmt: skip
        x, w, listed = flat(x_), flat(gate_, STORAGE[gate]), flat(table_, STORAGE[table])
        ids, idx, weights = flat(tokens_, "int32"), flat(idx_, "int32"), flat(weights_)
        with loop(S, tokens * k * width) as token:
            out = T.bind(wide(token) * k)
            place = T.bind(wide(ids[token]) * k)
            with T.serial(k) as i:
                put(idx, T.Cast("int32", listed[place + i]), out + i)
            with T.serial(k // rows) as turn:
                at = T.bind(out + turn * rows)
                bases = [T.bind(wide(idx[at + r]) * width) for r in range(rows)]
                (line,) = dot_tile(x, [wide(token) * width], w, gate, bases, width, lanes)
                for r, value in enumerate(line):
                    put(weights, T.sqrt(softplus(value)), at + r)
            _normalize(weights, out, k, scale)

    pointers = [("x", "float32"), ("gate", STORAGE[gate]), ("table", STORAGE[table]),
                ("tokens", "int32"), ("idx", "int32"), ("weights", "float32")]  # fmt: skip
    return Kernel(name, prim_func(name, pointers, body), (None,) * 4)


def _largest(keys: Any, n: int, k: int, idx: Any, out: Expr) -> None:
    """idx[out ..] = places of the k largest of n keys; always k different places, also of NaNs."""
    taken = T.alloc_buffer((n,), "int32")
    with T.serial(n) as i:
        put(taken, T.int32(0), i)
    with T.serial(k) as turn:
        best, top = Cell(T.int32(-1), dtype="int32"), Cell(T.float32(0))
        with T.serial(n) as i:
            better = T.Or(best.value < 0, keys[i] > top.value)
            with T.If(T.And(taken[i] == 0, better)), T.Then():
                best.value = i
                top.value = keys[i]
        put(taken, T.int32(1), best.value)
        put(idx, best.value, out + turn)


def _normalize(weights: Any, out: Expr, k: int, scale: float) -> None:
    """weights[out : out + k] *= scale / (their sum + TINY)."""
    total = Cell(T.float32(TINY))
    with T.serial(k) as i:
        total.value = total.value + weights[out + i]
    factor = hold(T.float32(scale) / total.value)
    with T.serial(k) as i:
        put(weights, weights[out + i] * factor, out + i)
