"""The expert sublayer for chips of many threads: chosen experts and the shared one.

    y[s] = sum_a weights[s, a] * w2[e] f(w1[e] x[s], w3[e] x[s]) + s2 f(s1 x[s], s3 x[s])

with f the clamped SwiGLU. Two launches fill f for the chosen experts and the shared one, a third
adds up the down projections of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.simt.products import Sums, group, shape_for
from firstlight.codegen.simt.weights import Weight
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.passes.capabilities import Threads

NAMES = ("w1", "w3", "w2", "s1", "s3", "s2")


def expert_ffn(name: str, weights: Sequence[Weight], chosen: int, limit: float, threads: Threads,
               room: int) -> Kernel:
    """x [S, D], index [S, A] i32, gates [S, A], w1 w3 w2 s1 s3 s2 -> y [S, D].

    Args:
        weights: of w1, w3 [E, I, D], w2 [E, D, I], s1, s3 [J, D], s2 [D, J].
        chosen: A.
        room: bytes of group memory.
    """
    names = [w.pointers(n) for w, n in zip(weights, NAMES, strict=True)]
    w1, w3, w2, s1, s3, s2 = weights
    inner, shared, d = w1.n, s1.n, w1.k

    def body(x_: Any, index_: Any, gates_: Any, *rest: Any) -> None:
        *pointers, y_, count = rest
        x = T.decl_buffer((count * d,), "float32", data=x_)
        index = T.decl_buffer((count * chosen,), "int32", data=index_)
        gates = T.decl_buffer((count * chosen,), "float32", data=gates_)
        y = T.decl_buffer((count * d,), "float32", data=y_)
        for weight, own in zip(weights, names, strict=True):
            weight.bind(pointers[:len(own)])
            del pointers[:len(own)]
        routed_f = T.alloc_buffer((count * chosen * inner,), "float32")
        shared_f = T.alloc_buffer((count * shared,), "float32")

        def up(gate: Weight, up_: Weight, many: int, out: Any) -> None:
            shape = shape_for(threads, min(gate.row_words, up_.row_words), 1, 2, room)
            with group(shape, gate.n, count * many) as (row, lane, place):
                kept = T.bind(T.min(row, T.int32(gate.n - 1)))
                matrix = T.int32(0)
                if out is routed_f:
                    matrix = T.bind(_expert(index[place], w1.count))
                start = T.bind(T.floordiv(place, many) * d)
                sums = Sums(shape, 2)
                for number, weight in enumerate((gate, up_)):
                    sums.add(number, weight, matrix, kept, lane, lambda t, i: x[start + i])
                totals = sums.join(row, lane)
                with T.If(T.And(lane < 1, row < gate.n)), T.Then():
                    value = _swiglu(totals(0, 0), totals(1, 0), limit)
                    T.buffer_store(out, value, [place * gate.n + row])

        up(w1, w3, chosen, routed_f)
        up(s1, s3, 1, shared_f)
        shape = shape_for(threads, min(w2.row_words, s2.row_words), 1, 1, room)
        with group(shape, d, count) as (row, lane, s):
            kept = T.bind(T.min(row, T.int32(d - 1)))
            sums = Sums(shape, 1)
            with T.serial(chosen) as a:
                place = T.bind(s * chosen + a)
                matrix, factor = T.bind(_expert(index[place], w1.count)), T.bind(gates[place])
                start = T.bind(place * inner)
                sums.add(0, w2, matrix, kept, lane, lambda t, i: routed_f[start + i], factor)
            begin = T.bind(s * shared)
            sums.add(0, s2, T.int32(0), kept, lane, lambda t, i: shared_f[begin + i])
            totals = sums.join(row, lane)
            with T.If(T.And(lane < 1, row < d)), T.Then():
                T.buffer_store(y, totals(0, 0), [s * d + row])

    operands = [("x", "float32"), ("index", "int32"), ("weights", "float32")]
    pointers = [*operands, *(p for own in names for p in own), ("y", "float32")]
    return Kernel(name, prim_func(name, pointers, body), (None,) * 9)


def _expert(number: Any, experts: int) -> Any:
    """numpy's meaning of a negative index."""
    return T.Select(number < 0, number + experts, number)


def _swiglu(gate: Any, up: Any, limit: float) -> Any:
    """silu(min(gate, L)) * clamp(up, -L, L); no overflow of exp on either side."""
    most, one = T.float32(limit), T.float32(1)
    gate = T.bind(T.min(gate, most))
    e = T.bind(T.exp(-T.abs(gate)))
    sigmoid = T.Select(gate >= T.float32(0), one, e) / (one + e)
    return gate * sigmoid * T.max(T.min(up, most), -most)
