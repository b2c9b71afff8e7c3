"""Values while a graph is imported: known now (with symbolic sizes), or arrays under construction.

ONNX has many element types, the IR three: every float is computed as float32, every integer as
int32 (narrow ones wrapped to their width), bool stays. What a model declares is kept, and is what
the artifact's inputs and outputs have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.onnx.errors import Refused
from firstlight.ir import dims
from firstlight.ir.array import Array
from firstlight.ir.dims import Dim, Size

FLOATS = ("float32", "float16", "bfloat16")
NARROW = {"int8": (-128, 8), "uint8": (0, 8), "int16": (-(1 << 15), 16), "uint16": (0, 16)}
INTEGERS = ("int64", "int32", *NARROW)
FLOAT8 = ("float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True, eq=False)
class Held:
    """A value: `dtype` is numpy's (or ml_dtypes') name of the ONNX element type.

    known   its elements, if they do not depend on inputs; of dtype object where some are sizes
    array   the value in the IR, otherwise (or once it was needed there)
    """

    dtype: str
    known: NDArray[Any] | None = None
    array: Array | None = None

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape, with symbolic sizes."""
        if self.known is not None:
            return tuple(self.known.shape)
        assert self.array is not None
        return self.array.shape

    @property
    def symbolic(self) -> bool:
        """Whether some elements are open sizes."""
        return self.known is not None and self.known.dtype == object

    def of(self, array: Array) -> Held:
        """An array of the same element type."""
        return replace(self, known=None, array=array)


def kind(dtype: str) -> str:
    """The IR's element type for an ONNX one."""
    if dtype in FLOATS:
        return "f32"
    if dtype in INTEGERS:
        return "i32"
    if dtype == "bool":
        return "bool"
    if dtype == "float64":
        raise Refused("float64: kernels compute in float32")
    if dtype == "object":
        raise Refused("strings are not tensors of numbers")
    raise Refused(f"element type {dtype}")


def numbers(known: NDArray[Any]) -> NDArray[Any]:
    """Known elements as the IR has them. Raises Refused for integers beyond 32 bits."""
    which = kind(str(known.dtype))
    if which == "i32" and known.size and known.dtype.itemsize > 4:
        low, high = int(known.min()), int(known.max())
        if not -(1 << 31) <= low <= high < 1 << 31:
            # sentinels of exporters ("as far as there is") stay the largest there are
            raise Refused(f"an integer of {high if high >= 1 << 31 else low}: kernels have 32 bits")
    return known.astype({"f32": np.float32, "i32": np.int32, "bool": np.bool_}[which])


def wrapped(array: Array, dtype: str) -> Array:
    """An i32 array brought into the range of a narrow integer type, as its arithmetic wraps."""
    if dtype not in NARROW:
        return array
    low, bits = NARROW[dtype]
    return (array - low) % (1 << bits) + low


def saturated(array: Array, dtype: str) -> Array:
    """An i32 or f32 array clamped to the range of a narrow integer type."""
    low, bits = NARROW[dtype]
    return array.maximum(low).minimum(low + (1 << bits) - 1)


def compact(values: NDArray[Any]) -> NDArray[Any]:
    """An object array without symbolic sizes becomes int64."""
    if values.dtype == object and not any(isinstance(v, Dim) for v in values.reshape(-1)):
        return values.astype(np.int64)
    return values


def product(sizes: tuple[Size, ...]) -> Size:
    """The product of sizes, one of which may be open if the others are 1."""
    total: Size = 1
    for size in sizes:
        total = times(total, size)
    return total


def times(a: Size, b: Size) -> Size:
    """a * b, as far as sizes can say it."""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if 1 in (a, b):
        return b if a == 1 else a
    if 0 in (a, b):
        return 0
    raise Refused(f"the size {a} * {b}: a size is a sum or quotient of one open size and numbers")


def plus(a: Size, b: Size) -> Size:
    """a + b, as far as sizes can say it."""
    if isinstance(a, Dim) and isinstance(b, Dim):
        raise Refused(f"the size {a} + {b}: only one part may be open")
    offset = (a.amount if isinstance(a, Dim) and a.head == "add" else 0)
    if isinstance(a, Dim) and isinstance(b, int) and offset + b < 0:
        raise Refused(f"the size {a} - {-b}")
    if isinstance(a, Dim) and a.head == "add" and isinstance(b, int):
        assert a.base is not None
        return dims.add(a.base, offset + b)
    if isinstance(a, int) and isinstance(b, Dim):
        return plus(b, a)
    return dims.add(a, b)
