"""Cases of the primitives: shapes with and without whole vectors, values that hurt."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from firstlight.ir import dims
from firstlight.ir.types import (
    BLOCK_FP8,
    GROUP_FP4,
    GROUP_INT8,
    KEYS_FP4,
    REAL,
    StateType,
    kv_fp8,
)
from firstlight.targets.conform.cases import Case, boolean, f32, i32
from firstlight.targets.conform.data import (
    angles,
    extreme,
    integers,
    masked,
    outliers,
    plain,
    positive,
    ties,
    tiny,
    wide,
    zero_rows,
)

B, S = dims.B, dims.S
I32 = i32(B)
SHAPES = ((B, S, 6), (B, S, 3, 32), (B, S, 48))
OTHERS = ((B, S, 1), (32,), (B, S, 48))
UNARY = ("neg", "exp", "log", "sqrt", "abs", "rsqrt", "sigmoid", "tanh", "softplus", "relu", "cos",
         "sin")
CODECS = ("", *REAL)


def primitives() -> Iterator[Case]:
    """Every primitive that kernels stand for."""
    for family in FAMILIES.values():
        yield from family()


def _elementwise() -> Iterator[Case]:
    for name, shape in itertools.product(UNARY, SHAPES[:2]):
        data = positive if name in ("log", "sqrt", "rsqrt") else extreme
        data = angles if name in ("cos", "sin") else data
        yield Case(name, (f32(*shape),), values={"x": data})
    for name in ("add", "sub", "mul", "div", "maximum", "minimum", "lt", "le", "eq"):
        for shape, other in zip(SHAPES, OTHERS, strict=True):
            yield Case(name, (f32(*shape), f32(*other)), changes=(plain, ties, outliers))
    for name in ("add", "sub", "mul", "maximum", "minimum", "floordiv", "mod", "lt", "le", "eq"):
        yield Case(name, (i32(B, S, 16), i32()), values={"a": integers(-99, 99),
                                                        "b": integers(7, 8)})
    for name in ("logical_and", "logical_or"):
        yield Case(name, (boolean(B, S, 16), boolean(B, 1, 16)))
    yield Case("select", (boolean(B, S, 1), f32(B, S, 32), f32()), values={"a": extreme})
    yield Case("select", (boolean(B, S, 5), i32(B, S, 5), i32(5)))
    for dtype in ("f32", "i32", "bool"):
        yield Case("cast", (i32(B, S, 16),), {"dtype": dtype}, values={"x": integers(-3, 3)})
        yield Case("cast", (f32(B, S, 16),), {"dtype": dtype})
        yield Case("cast", (boolean(B, S, 16),), {"dtype": dtype})
    for codec in ("bf16", "f16"):
        yield Case("mul", (f32(B, S, 48), f32(48, codec=codec)))


def _movement() -> Iterator[Case]:
    yield Case("constant", (), {"value": 1.5, "shape": (2, 16), "dtype": "f32"})
    yield Case("constant", (), {"value": -float("inf"), "shape": (), "dtype": "f32"})
    yield Case("constant", (), {"value": (1.0, 2.5, -3.0, 4.0, 5.0, 1e-9), "shape": (2, 3),
                                "dtype": "f32"})
    yield Case("constant", (), {"value": (True, False), "shape": (2,), "dtype": "bool"})
    yield Case("iota", (), {"shape": (1, S, 5), "axis": 1})
    yield Case("iota", (), {"shape": (1, 1, dims.add(S, 32)), "axis": 2})
    yield Case("size", (), {"dim": dims.ceildiv(dims.add(S, 3), 4)})
    yield Case("copy", (f32(B, S, 5),))
    yield Case("copy", (i32(B, S, 32),))
    yield Case("broadcast", (f32(B, 1, 16),), {"shape": (B, S, 16)})
    yield Case("broadcast", (f32(),), {"shape": (B, S, 3)})
    for before, after in (
        ((B, S, 24), (B, S, 2, 3, 4)), ((B, S, 2, 3, 4), (B, S, 6, 4)), ((S, 6), (B, S, 6)),
        ((B, S), (S,)), ((2, S, 6), (4, S, 3)), ((6, 4), (8, 3)), ((B,), ()),
        ((B, dims.add(S, 8), 32), (B, 1, dims.add(S, 8), 2, 16)),
    ):
        yield Case("reshape", (f32(*before),), {"shape": after})
    yield Case("transpose", (f32(B, S, 3, 16),), {"perm": (0, 1, 3, 2)})
    yield Case("transpose", (f32(B, S, 3, 16),), {"perm": (2, 0, 3, 1)})
    for axis, start, stop in ((2, 1, 3), (3, 16, 48), (3, 5, 6)):
        yield Case("slice", (f32(B, S, 4, 64),), {"axis": axis, "start": start, "stop": stop})
    yield Case("slice", (f32(7, 64, codec="bf16"),), {"axis": 0, "start": 2, "stop": 5})
    yield Case("concat", (f32(B, 5, 16), f32(B, S, 16)), {"axis": 1})
    yield Case("concat", (f32(B, S, 3, 1), f32(B, S, 3, 1)), {"axis": 3})
    yield Case("concat", (i32(B, S, 16), i32(B, S, 2), i32(B, S, 32)), {"axis": 2})
    yield Case("gather_rows", (f32(B, 9, 32), i32(B, S, 4)), values={"index": integers(-5, 15)})
    yield Case("gather_rows", (f32(B, dims.add(S, 2), 6), i32(B, S)),
               values={"index": integers(-5, 15)})
    yield Case("take_along", (f32(B, S, 9), i32(B, S, 4)), values={"index": integers(-9, 9)})
    for codec in CODECS:
        yield Case("embedding", (f32(11, 32, codec=codec), i32(B, S)),
                   values={"ids": integers(0, 11)})
    yield Case("embedding", (i32(11, 6, codec="i64"), i32(B, S)), values={"ids": integers(0, 11)})


def _products() -> Iterator[Case]:
    yield Case("matmul", (f32(B, S, 3, 48), f32(B, 1, 9, 48)), {"transpose_b": True})
    yield Case("matmul", (f32(B, S, 3, 7), f32(B, 1, 5, 7)), {"transpose_b": True})
    yield Case("matmul", (f32(B, S, 3, 9), f32(B, 1, 9, 32)), {"transpose_b": False})
    yield Case("matmul", (f32(B, S, 3, dims.add(S, 4)), f32(B, 1, dims.add(S, 4), 16)),
               {"transpose_b": False}, (plain, zero_rows, outliers))
    yield Case("matmul", (f32(B, S, 3, 9), f32(9, 5)), {"transpose_b": False}, long=True)
    yield Case("matmul", (f32(130, 40), f32(33, 40)), {"transpose_b": True})
    for codec in CODECS:
        yield Case("linear", (f32(B, S, 288), f32(140, 288, codec=codec)),
                   changes=(plain, zero_rows, outliers), long=True)
        yield Case("linear", (f32(B, S, 32), f32(5, 32, codec=codec)))
        yield Case("group_linear", (f32(B, S, 2, 64), f32(150, 64, codec=codec)), long=True)
        for shape in ((B, S, 64), (B, S, 3, 64)):
            yield Case("expert_linear", (f32(*shape), f32(5, 144, 64, codec=codec), i32(B, S, 3)),
                       values={"index": integers(1, 4)},  # experts 0 and 4 have no tokens
                       long=True)
    yield Case("linear", (f32(B, S, 130), f32(257, 130, codec=BLOCK_FP8)))
    yield Case("linear", (f32(B, S, 7), f32(5, 7)))
    for codec in ("bf16", BLOCK_FP8, GROUP_FP4, GROUP_INT8):    # of a call's last token only
        yield Case("linear", (f32(B, 1, 64), f32(140, 64, codec=codec)))


def _reductions() -> Iterator[Case]:
    for name, keepdims in itertools.product(("reduce_sum", "reduce_max", "reduce_mean"),
                                            (False, True)):
        for axis in (2, 3):
            yield Case(name, (f32(B, S, 5, 64),), {"axis": axis, "keepdims": keepdims},
                       (plain, outliers))
        yield Case(name, (f32(B, S, dims.add(S, 3)),), {"axis": 2, "keepdims": keepdims})
        yield Case(name, (f32(B, S, 7),), {"axis": 2, "keepdims": keepdims})
    for shape in ((B, S, 16411), (B, S, 16411, 2)):  # long enough for a parallel loop, and must not
        yield Case("reduce_sum", (f32(*shape),), {"axis": 2, "keepdims": False}, (ties,))
    for axis, shape in ((2, (B, S, 8, 6)), (3, (B, S, 3, 64)), (2, (B, S, 9))):
        yield Case("softmax", (f32(*shape),), {"axis": axis}, (plain, zero_rows, outliers, ties))
    yield Case("softmax", (f32(B, S, 64),), {"axis": 2}, values={"x": extreme})
    for k, n in ((1, 7), (4, 7), (9, 7), (16, 300)):
        yield Case("top_k", (f32(B, S, n),), {"k": k}, (plain, ties, zero_rows))
        yield Case("top_k", (f32(B, S, n),), {"k": k}, values={"x": masked})
    yield Case("top_k", (f32(B, S, dims.floordiv(dims.add(S, 9), 2)),), {"k": 3}, (ties,))


def _roundings() -> Iterator[Case]:
    for name, block in (("round_e4m3", 16), ("round_e4m3", 64), ("round_e2m1", 32)):
        yield Case(name, (f32(B, S, 128),), {"block": block}, (plain, zero_rows, outliers, ties))
        yield Case(name, (f32(B, S, 50),), {"block": block}, values={"x": wide})
    yield Case("round_bf16", (f32(B, S, 32),), values={"x": wide})
    yield Case("round_bf16", (f32(B, S, 7),), changes=(plain, outliers))
    for n in (1, 8, 64):
        yield Case("hadamard", (f32(B, S, n),), changes=(plain, zero_rows, outliers))


RING, PARTIAL, ENTRIES = StateType("ring", 16, 5), StateType("partial", 6, 4, 4), StateType(
    "entries", 16, ratio=4)
POSITIONS = (0, 1, 3, 4, 5, 8, 33)
"""Around the ends of blocks of 4 and of rings of 3, 4 and 5."""


ROW_CODECS = (("bf16", 7), (kv_fp8(16), 80), (kv_fp8(64), 512), (kv_fp8(2), 21), (KEYS_FP4, 32))
"""Codecs of states, and how wide a row is: groups that are short, and that are many."""
HARD = (plain, zero_rows, outliers, ties, tiny)


def _states() -> Iterator[Case]:
    for state in (RING, PARTIAL, StateType("ring", 3, 1)):
        yield Case("ring_read", (state, I32, I32), positions=POSITIONS)
        yield Case("ring_write", (state, f32(B, S, state.width), I32, I32), positions=POSITIONS)
    for codec, width in ROW_CODECS:
        ring, entries = (replace(state, width=width, codec=codec) for state in (RING, ENTRIES))
        x = f32(B, S, width)
        yield Case("ring_read", (ring, I32, I32), positions=POSITIONS)
        yield Case("ring_write", (ring, x, I32, I32), changes=HARD, positions=POSITIONS)
        yield Case("ring_write", (ring, x, I32, I32), values={"x": wide})
        yield Case("entries_read", (entries, I32))
        yield Case("entries_append", (entries, x, I32, I32, I32), changes=HARD,
                   values={"first": integers(0, 4), "count": integers(1, 2)})
    yield Case("entries_read", (ENTRIES, I32))
    yield Case("entries_append", (ENTRIES, f32(B, S, 16), I32, I32, I32),
               values={"first": integers(0, 4), "count": integers(0, 1)})
    yield Case("entries_append", (ENTRIES, f32(B, S, 16), I32, I32, I32),
               values={"first": integers(0, 4), "count": integers(1, 2)})


def _halve_and_mix(x: Any) -> Any:
    return (x * 0.5 + x.softmax(3)).transpose(0, 1, 3, 2)


def _control() -> Iterator[Case]:
    for n, count in ((4, 3), (16, 2), (3, 0)):
        yield Case("repeat", (f32(B, S, n, n),), {"count": count}, callee=_halve_and_mix)


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "elementwise": _elementwise, "movement": _movement, "products": _products,
    "reductions": _reductions, "roundings": _roundings, "states": _states, "control": _control,
}
"""The cases by kind of op."""
