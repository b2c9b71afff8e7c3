"""Rows of a table, decoded to f32."""

from __future__ import annotations

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.tvm_bridge import T, prim_func
from firstlight.targets.cpu.kernels.schedule import loop
from firstlight.targets.cpu.kernels.vecmath import STORAGE, Expr, decode, flat, put, sweep, wide


def embedding(name: str, d: int, codec: str, tokens: int, lanes: int) -> Kernel:
    """table [V, D] as stored, ids [S] i32 -> y [S, D].

    Args:
        d: columns of the table.
        codec: f32, bf16 or f16.
        tokens: the most ids.
        lanes: f32 per vector, 8 or 16.
    """

    def body(table_: Expr, ids_: Expr, y_: Expr, count: Expr) -> None:
        table, ids, y = flat(table_, STORAGE[codec]), flat(ids_, "int32"), flat(y_)
        with loop(count, tokens * d) as s:
            source, target = T.bind(wide(ids[wide(s)]) * d), T.bind(wide(s) * d)
            sweep(d, lanes, lambda i, n: put(
                y, decode(table, codec, source + wide(i), n), target + wide(i), lanes=n
            ))  # fmt: skip

    pointers = [("table", STORAGE[codec]), ("ids", "int32"), ("y", "float32")]
    return Kernel(name, prim_func(name, pointers, body), (None, None))
