"""Elementwise ops with numpy broadcasting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.builder import require
from firstlight.ir.registry import TABLE, cost_of, op, reference_of, shape_of
from firstlight.ir.types import DTYPES, TensorType

Array = NDArray[np.generic]
F32 = NDArray[np.float32]


def broadcast_shapes(*shapes: tuple[dims.Size, ...]) -> tuple[dims.Size, ...]:
    """The numpy broadcast of symbolic shapes."""
    rank = max(len(s) for s in shapes)
    out: list[dims.Size] = []
    for axis in range(rank):
        sizes = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0} - {1}
        require(len(sizes) <= 1, f"shapes {shapes} do not broadcast")
        out.append(sizes.pop() if sizes else 1)
    return tuple(out)


def elements(ins: tuple[Any, ...], outs: tuple[Any, ...], **_: object) -> float:
    """One operation per element of the result."""
    return dims.product(outs[0].shape)


def _sigmoid(x: F32) -> F32:
    # exp of a non-positive number only: no overflow on either side
    e = np.exp(-np.abs(x))
    y: F32 = np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)
    return y


def _softplus(x: F32) -> F32:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


UNARY: dict[str, Callable[..., Array]] = {
    "neg": np.negative, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "abs": np.abs,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype), "sigmoid": _sigmoid, "tanh": np.tanh,
    "softplus": _softplus, "relu": lambda x: np.maximum(x, 0), "cos": np.cos, "sin": np.sin,
}
BINARY: dict[str, Callable[..., Array]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "maximum": np.maximum, "minimum": np.minimum,
    "floordiv": np.floor_divide, "mod": np.mod,
}
COMPARE: dict[str, Callable[[Array, Array], Array]] = {
    "lt": np.less, "le": np.less_equal, "eq": np.equal,
}
LOGICAL: dict[str, Callable[[Array, Array], Array]] = {
    "logical_and": np.logical_and, "logical_or": np.logical_or,
}
COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "logical_and", "logical_or"})


def _unary_shape(x: TensorType) -> TensorType:
    return x.plain


def _binary_shape(a: TensorType, b: TensorType) -> TensorType:
    require(a.dtype == b.dtype, f"operands are {a.dtype} and {b.dtype}")
    return TensorType(broadcast_shapes(a.shape, b.shape), a.dtype)


def _compare_shape(a: TensorType, b: TensorType) -> TensorType:
    return TensorType(_binary_shape(a, b).shape, "bool")


for _name, _f in UNARY.items():
    _info = op(_name, ("x",))
    _info.shape, _info.cost = _unary_shape, elements
    _info.reference = _f
for _names, _rule in ((BINARY, _binary_shape), (COMPARE, _compare_shape), (LOGICAL, _binary_shape)):
    for _name, _g in _names.items():
        _info = op(_name, ("a", "b"))
        _info.shape, _info.cost, _info.reference = _rule, elements, _g

select = op("select", ("condition", "a", "b"))


@shape_of(select)
def _(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    require(condition.dtype == "bool", f"the condition is {condition.dtype}, not bool")
    require(a.dtype == b.dtype, f"the branches are {a.dtype} and {b.dtype}")
    return TensorType(broadcast_shapes(condition.shape, a.shape, b.shape), a.dtype)


reference_of(select)(np.where)
cost_of(select)(elements)

cast = op("cast", ("x",), attrs={"dtype": str})
NUMPY = {"f32": np.dtype(np.float32), "i32": np.dtype(np.int32), "bool": np.dtype(np.bool_)}


@shape_of(cast)
def _(x: TensorType, dtype: str) -> TensorType:
    require(dtype in DTYPES, f"unknown dtype {dtype}")
    return TensorType(x.shape, dtype)


@reference_of(cast)
def _(x: Array, dtype: str) -> Array:
    return x.astype(NUMPY[dtype])


cost_of(cast)(elements)

__all__ = ["BINARY", "COMMUTATIVE", "COMPARE", "LOGICAL", "NUMPY", "TABLE", "UNARY",
           "broadcast_shapes", "elements"]
