"""Scalar expressions: element types, constants, bits, and functions that TIR has not."""

from __future__ import annotations

from firstlight.codegen.generic.recipe import Expr
from firstlight.codegen.tvm_bridge import T

DTYPES = {"f32": "float32", "i32": "int32", "bool": "uint8"}
"""IR dtype -> element type in memory (a bool is a byte, as in numpy)."""


def const(value: float | int | bool, dtype: str) -> Expr:
    """A constant of an IR dtype."""
    if dtype == "f32":
        return T.float32(float(value))
    return T.int32(int(value)) if dtype == "i32" else T.bool(bool(value))


def load(buffer: Expr, index: tuple[Expr, ...], dtype: str) -> Expr:
    """The element of a buffer of an IR dtype; a buffer of a scalar has one place."""
    value = buffer[index or (0,)]
    return T.NE(value, T.uint8(0)) if dtype == "bool" else value


def store(buffer: Expr, value: Expr, index: tuple[Expr, ...], dtype: str) -> None:
    """Write an element of an IR dtype."""
    value = T.Cast("uint8", value) if dtype == "bool" else value
    T.buffer_store(buffer, value, list(index) or [0])


def bits(x: Expr) -> Expr:
    """The 32 bits of a float, as int32."""
    return T.reinterpret("int32", x)


def power_of_two(exponent: Expr) -> Expr:
    """2.0 ** exponent for an int32 in [-126, 127]."""
    return T.reinterpret("float32", T.shift_left(exponent + T.int32(127), T.int32(23)))


def exponent_of(x: Expr) -> Expr:
    """floor(log2 |x|) of a normal float, as int32 (zero and subnormal numbers: -127)."""
    return (bits(x) >> T.int32(23)) % T.int32(256) - T.int32(127)


def wrap(index: Expr, size: Expr) -> Expr:
    """numpy's meaning of a negative index. It also keeps a -1 of top_k inside the memory."""
    return T.Select(index < T.int32(0), index + size, index)


def clip(index: Expr, size: Expr) -> Expr:
    """The nearest index in [0, size)."""
    return T.max(T.min(index, size - T.int32(1)), T.int32(0))
