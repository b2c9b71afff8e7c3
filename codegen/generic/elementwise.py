"""Lowerings of the elementwise primitives."""

from __future__ import annotations

from collections.abc import Callable

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Tensor
from firstlight.codegen.generic.scalars import const
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.core import Op


def broadcast_index(tensor: Tensor, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The index of a numpy-broadcast operand for an index of the result."""
    shape = tensor.type.shape
    last = index[len(index) - len(shape):]
    return tuple(T.int32(0) if size == 1 else i for size, i in zip(shape, last, strict=True))


def _sigmoid(x: Expr) -> Expr:
    # exp of a non-positive number only: no overflow on either side
    e, one = T.exp(-T.abs(x)), T.float32(1)
    return T.Select(x >= T.float32(0), one, e) / (one + e)


def _softplus(x: Expr) -> Expr:
    return T.max(x, T.float32(0)) + T.log1p(T.exp(-T.abs(x)))


UNARY: dict[str, Callable[[Expr], Expr]] = {
    "neg": lambda x: -x, "exp": T.exp, "log": T.log, "sqrt": T.sqrt, "abs": T.abs,
    "rsqrt": lambda x: T.float32(1) / T.sqrt(x), "sigmoid": _sigmoid, "tanh": T.tanh,
    "softplus": _softplus, "cos": T.cos, "sin": T.sin,
}
BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b, "maximum": T.max, "minimum": T.min,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "eq": T.EQ,
    "logical_and": T.And, "logical_or": T.Or,
}


@lower(*UNARY, kind="pointwise")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    function = UNARY[op.name]
    return Tensor(op.result.type, lambda *i: function(x.read(*i)))


@lower("relu", kind="pointwise")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    zero = const(0, x.type.dtype)
    return Tensor(op.result.type, lambda *i: T.max(x.read(*i), zero))


@lower(*BINARY, kind="pointwise")
def _(e: Emitter, op: Op, a: Tensor, b: Tensor) -> Tensor:
    function = BINARY[op.name]
    return Tensor(op.result.type, lambda *i: function(
        a.read(*broadcast_index(a, i)), b.read(*broadcast_index(b, i))))


def _floordiv(a: Expr, b: Expr, dtype: str) -> Expr:
    return T.floor(a / b) if dtype == "f32" else T.floordiv(a, b)


@lower("floordiv", "mod", kind="pointwise")
def _(e: Emitter, op: Op, a: Tensor, b: Tensor) -> Tensor:
    def read(*i: Expr) -> Expr:
        x, y = a.read(*broadcast_index(a, i)), b.read(*broadcast_index(b, i))
        whole = _floordiv(x, y, a.type.dtype)
        return whole if op.name == "floordiv" else x - whole * y

    return Tensor(op.result.type, read)


@lower("select", kind="pointwise")
def _(e: Emitter, op: Op, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return Tensor(op.result.type, lambda *i: T.Select(
        *[t.read(*broadcast_index(t, i)) for t in (condition, a, b)]))


@lower("cast", kind="pointwise")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    dtype = op.result.type.dtype
    if dtype == x.type.dtype:
        return x
    if dtype == "bool":
        zero = const(0, x.type.dtype)
        return Tensor(op.result.type, lambda *i: T.NE(x.read(*i), zero))
    name = {"f32": "float32", "i32": "int32"}[dtype]
    return Tensor(op.result.type, lambda *i: T.Cast(name, x.read(*i)))
