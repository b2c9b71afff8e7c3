"""Operands for every primitive: shapes that matter, and values that hurt."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from firstlight.ir import dims
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.interpreter import run
from firstlight.ir.ops.elementwise import BINARY, LOGICAL, UNARY
from firstlight.ir.types import StateType, TensorType, Type

DTYPES = {np.dtype("f4"): "f32", np.dtype("i4"): "i32", np.dtype("?"): "bool"}
SIZES = {"B": 3, "S": 5, "C": 24}
INF = np.float32(np.inf)
HARD = np.array([0, -0.0, 1, -1, 1e4, -1e4, 1e-30, 88, -88, 104, -104, 0.5, 2.5, 1e30], np.float32)


@dataclass(frozen=True)
class PrimitiveCase:
    """A primitive on arrays; `states` are the types of the first operands if these are states."""

    op: str
    arrays: tuple[np.ndarray, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    states: tuple[StateType, ...] = ()

    @property
    def types(self) -> tuple[Type, ...]:
        """Operand types."""
        plain = [TensorType(a.shape, DTYPES[a.dtype]) for a in self.arrays[len(self.states):]]
        return (*self.states, *plain)

    def module(self) -> Module:
        """A module whose function `main` is this op."""
        builder = Builder("main")
        args = [builder.arg(t) for t in self.types]
        op = builder.emit(self.op, *args, loc=None, **self.attrs)
        return Module().with_function(builder.finish(*op.results))

    def result(self) -> np.ndarray:
        """What the reference gives."""
        return run(self.module(), "main", list(self.arrays), SIZES)[0]


def primitive_cases() -> Iterator[PrimitiveCase]:
    """Every primitive but calls, at least once."""
    yield from _elementwise()
    yield from _movement()
    yield from _sums_and_products()
    yield from _states()


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def _whole(high: int, *shape: int, seed: int = 0, low: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(np.int32)


def _elementwise() -> Iterator[PrimitiveCase]:
    positive = np.abs(np.concatenate([HARD[2:], _normal(9)]))
    for name in UNARY:
        if name in ("sqrt", "rsqrt", "log"):
            x = positive
        elif name in ("cos", "sin"):
            x = np.linspace(-700, 700, 301, dtype=np.float32)
        elif name == "exp":
            x = HARD[np.abs(HARD) < 90]
        else:
            x = HARD
        yield PrimitiveCase(name, (x,))
    a, b = _normal(3, 5, 1, 4), _normal(5, 6, 1, seed=1)
    i, j = _whole(9, 3, 5, low=-9), _whole(6, 5, low=1)
    for name in BINARY:
        yield PrimitiveCase(name, (i, j) if name in ("floordiv", "mod") else (a, b))
    yield PrimitiveCase("add", (i, j))
    yield PrimitiveCase("maximum", (np.array([-INF, 1, INF], np.float32), _normal(3)))
    for name in ("lt", "le", "eq"):
        yield PrimitiveCase(name, (np.round(a), np.round(b)))
        yield PrimitiveCase(name, (i, j))
    for name in LOGICAL:
        yield PrimitiveCase(name, (a > 0, b > 0))
    yield PrimitiveCase("select", (a > 0, b, np.array(-INF)))
    yield PrimitiveCase("select", (np.array([True, False]), i[0, :2], j[:2]))
    yield PrimitiveCase("cast", (np.array([-2.7, -0.5, 0.5, 2.7], np.float32),), {"dtype": "i32"})
    yield PrimitiveCase("cast", (i,), {"dtype": "f32"})
    yield PrimitiveCase("cast", (a > 0,), {"dtype": "f32"})
    x = _normal(3, 40)
    yield PrimitiveCase("round_bf16", (np.concatenate([x.ravel(), HARD[:-1], _ties(7)]),))
    yield PrimitiveCase("round_e4m3", (_pinned(x * 60, 448),), {"block": 40})
    yield PrimitiveCase("round_e2m1", (_pinned(x * 2, 6),), {"block": 40})
    yield PrimitiveCase("hadamard", (_normal(3, 5, 16),))


def _pinned(x: np.ndarray, top: float) -> np.ndarray:
    """One value at the format's largest in every row makes the scale one."""
    x = np.clip(x, -top, top)
    x[:, 0] = top
    return x.astype(np.float32)


def _ties(bits: int) -> np.ndarray:
    """1 + odd halves of the last of `bits` bits."""
    return (1 + (np.arange(8) + 0.5) * 2.0**-bits).astype(np.float32)


def _movement() -> Iterator[PrimitiveCase]:
    x = _normal(3, 5, 8)
    yield PrimitiveCase("constant", (), {"value": 0.1, "shape": (2, 3), "dtype": "f32"})
    values = (1.0, 2.0, -float("inf"))
    yield PrimitiveCase("constant", (), {"value": values, "shape": (3,), "dtype": "f32"})
    yield PrimitiveCase("constant", (), {"value": 7, "shape": (), "dtype": "i32"})
    for axis in range(3):
        yield PrimitiveCase("iota", (), {"shape": (3, dims.S, 4), "axis": axis})
    yield PrimitiveCase("size", (), {"dim": dims.add(dims.S, 7)})
    yield PrimitiveCase("copy", (x,))
    yield PrimitiveCase("broadcast", (x[:, :, None],), {"shape": (3, 5, 4, 8)})
    yield PrimitiveCase("reshape", (x,), {"shape": (3, 5, 2, 2, 2)})
    yield PrimitiveCase("transpose", (x,), {"perm": (2, 0, 1)})
    yield PrimitiveCase("slice", (x,), {"axis": 2, "start": 3, "stop": 7})
    yield PrimitiveCase("concat", (x, x[:, :2], x[:, 1:]), {"axis": 1})
    yield PrimitiveCase("gather_rows", (x, _whole(8, 3, 4, low=-3)))     # also outside the rows
    yield PrimitiveCase("gather_rows", (x, _whole(5, 3, 2, 3)))
    yield PrimitiveCase("take_along", (x, _whole(8, 3, 5, 3)))
    yield PrimitiveCase("embedding", (_normal(9, 6), _whole(9, 3, 5)))


def _sums_and_products() -> Iterator[PrimitiveCase]:
    x = _normal(3, 5, 8)
    outlier = x.copy()
    outlier[1, 2, 3] = 1e4
    for name in ("reduce_sum", "reduce_max", "reduce_mean"):
        for axis, keepdims in ((0, False), (1, True), (2, False)):
            yield PrimitiveCase(name, (outlier,), {"axis": axis, "keepdims": keepdims})
    masked = np.where(x > 0, x, -INF)
    masked[..., 0] = 0
    for axis in range(3):
        yield PrimitiveCase("softmax", (outlier,), {"axis": axis})
    yield PrimitiveCase("softmax", (masked,), {"axis": 2})
    yield PrimitiveCase("softmax", (np.zeros_like(x),), {"axis": 1})
    for values in (x, np.round(x), np.zeros_like(x), masked, -np.abs(x), np.full_like(x, -INF)):
        for k in (1, 3, 8, 11):                             # 11 are not there
            yield PrimitiveCase("top_k", (values,), {"k": k})
    y, w = _normal(3, 8, 6), _normal(7, 8)
    yield PrimitiveCase("matmul", (outlier, y), {"transpose_b": False})
    yield PrimitiveCase("matmul", (x[:, :, None], _normal(1, 1, 4, 8)), {"transpose_b": True})
    yield PrimitiveCase("linear", (outlier, w))
    yield PrimitiveCase("group_linear", (x.reshape(3, 5, 2, 4), _normal(10, 4)))
    experts = _normal(6, 7, 8)
    for index in (_whole(6, 3, 5, 2), np.full((3, 5, 2), 4, np.int32)):    # the others are empty
        yield PrimitiveCase("expert_linear", (x, experts, index))
        yield PrimitiveCase("expert_linear", (_normal(3, 5, 2, 8), experts, index))


def _states() -> Iterator[PrimitiveCase]:
    ring, entries = StateType("ring", 6, 4), StateType("entries", 6, ratio=4)
    partial = StateType("partial", 6, 4, 2)
    slot = np.array([3, 0, 2], np.int32)
    old = _normal(4, 4, 6)
    for pos in ((0, 0, 0), (1, 3, 4), (5, 8, 23)):
        at = np.array(pos, np.int32)
        for state in (ring, partial):
            yield PrimitiveCase("ring_read", (old, slot, at), states=(state,))
        for tokens in (1, 3, 4, 9):                         # 9: only the last 4 stay
            rows = _normal(3, tokens, 6, seed=2)
            yield PrimitiveCase("ring_write", (old, rows, slot, at), states=(ring,))
    every = _normal(4, 6, 6)
    yield PrimitiveCase("entries_read", (every, slot), states=(entries,))
    for count in ((0, 0, 0), (1, 0, 2), (2, 2, 2)):
        yield PrimitiveCase("entries_append", (
            every, _normal(3, 2, 6, seed=3), slot, np.array([0, 2, 4], np.int32),
            np.array(count, np.int32)), states=(entries,))
