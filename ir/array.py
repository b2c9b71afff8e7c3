"""Traced arrays: ordinary Python over a numpy-like surface that emits ops.

Model definitions and decompositions are written with these. Nothing is computed; every operation
appends an op to the builder.
"""

from __future__ import annotations

from typing import Any

from firstlight.ir.builder import Builder
from firstlight.ir.core import Attr, Function, Value
from firstlight.ir.dims import Size
from firstlight.ir.types import StateType, TensorType, Type

Number = int | float


class Array:
    """A value under construction."""

    def __init__(self, builder: Builder, value: Value) -> None:
        self.builder, self.value = builder, value

    @property
    def type(self) -> Type:
        """The value's type (also of states)."""
        return self.value.type

    @property
    def shape(self) -> tuple[Size, ...]:
        """Shape of a tensor."""
        assert isinstance(self.type, TensorType)
        return self.type.shape

    @property
    def dtype(self) -> str:
        """Element type of a tensor."""
        assert isinstance(self.type, TensorType)
        return self.type.dtype

    @property
    def state(self) -> StateType:
        """Type of a state."""
        assert isinstance(self.type, StateType)
        return self.type

    def dim(self, axis: int) -> int:
        """Size of an axis that is a number."""
        size = self.shape[axis]
        assert isinstance(size, int), f"axis {axis} of {self.shape} is symbolic"
        return size

    # -- emitting -------------------------------------------------------------------------------

    def emit(self, name: str, *operands: Array, **attrs: Attr) -> Array:
        """An op with one result, this array first."""
        return emit(self.builder, name, self, *operands, **attrs)[0]

    def lift(self, other: Array | Number) -> Array:
        """A number as a constant of this array's dtype."""
        if isinstance(other, Array):
            return other
        return constant(self.builder, other, (), self.dtype)

    def _binary(self, name: str, other: Array | Number, *, swap: bool = False) -> Array:
        a, b = self, self.lift(other)
        return b.emit(name, a) if swap else a.emit(name, b)

    def __add__(self, other: Array | Number) -> Array:
        return self._binary("add", other)

    def __radd__(self, other: Number) -> Array:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Array | Number) -> Array:
        return self._binary("sub", other)

    def __rsub__(self, other: Number) -> Array:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Array | Number) -> Array:
        return self._binary("mul", other)

    def __rmul__(self, other: Number) -> Array:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Array | Number) -> Array:
        return self._binary("div", other)

    def __floordiv__(self, other: Array | Number) -> Array:
        return self._binary("floordiv", other)

    def __mod__(self, other: Array | Number) -> Array:
        return self._binary("mod", other)

    def __neg__(self) -> Array:
        return self.emit("neg")

    def __lt__(self, other: Array | Number) -> Array:
        return self._binary("lt", other)

    def __le__(self, other: Array | Number) -> Array:
        return self._binary("le", other)

    def __gt__(self, other: Array | Number) -> Array:
        return self.lift(other).emit("lt", self)

    def __ge__(self, other: Array | Number) -> Array:
        return self.lift(other).emit("le", self)

    def __and__(self, other: Array) -> Array:
        return self.emit("logical_and", other)

    def __bool__(self) -> bool:
        raise TypeError("a traced array has no truth value: nothing is computed while tracing; "
                        "use `where`, or decide by shapes and config")

    def minimum(self, other: Array | Number) -> Array:
        """Elementwise smaller value."""
        return self._binary("minimum", other)

    def maximum(self, other: Array | Number) -> Array:
        """Elementwise larger value."""
        return self._binary("maximum", other)

    def reshape(self, *shape: Size) -> Array:
        """The same elements in another shape; symbolic axes keep their order."""
        return self if shape == self.shape else self.emit("reshape", shape=shape)

    def insert(self, axis: int) -> Array:
        """A new axis of size 1 before `axis` (negative: counted in the result)."""
        axis = axis if axis >= 0 else len(self.shape) + 1 + axis
        return self.reshape(*self.shape[:axis], 1, *self.shape[axis:])

    def transpose(self, *perm: int) -> Array:
        """Axes in another order."""
        return self.emit("transpose", perm=perm)

    def broadcast(self, *shape: Size) -> Array:
        """Repeated along axes of size 1."""
        return self if shape == self.shape else self.emit("broadcast", shape=shape)

    def take(self, axis: int, start: int, stop: int) -> Array:
        """Elements [start, stop) of an axis whose size is a number."""
        axis = axis % len(self.shape)
        if start == 0 and stop == self.shape[axis]:
            return self
        return self.emit("slice", axis=axis, start=start, stop=stop)

    def sum(self, axis: int, keepdims: bool = False) -> Array:
        """Sum over an axis."""
        return self.emit("reduce_sum", axis=axis % len(self.shape), keepdims=keepdims)

    def mean(self, axis: int, keepdims: bool = False) -> Array:
        """Mean over an axis."""
        return self.emit("reduce_mean", axis=axis % len(self.shape), keepdims=keepdims)

    def softmax(self, axis: int) -> Array:
        """Softmax along an axis."""
        return self.emit("softmax", axis=axis % len(self.shape))

    def matmul(self, other: Array, transpose: bool = False) -> Array:
        """Batched matrix product; `transpose` takes other as [..., N, K]."""
        return self.emit("matmul", other, transpose_b=transpose)

    def cast(self, dtype: str) -> Array:
        """Another element type."""
        return self if dtype == self.dtype else self.emit("cast", dtype=dtype)

    def where(self, a: Array | Number, b: Array | Number) -> Array:
        """a where this condition holds, else b."""
        a = a if isinstance(a, Array) else constant(self.builder, a, (), "f32")
        return self.emit("select", a, a.lift(b))


def emit(builder: Builder, name: str, *operands: Array, **attrs: Attr) -> tuple[Array, ...]:
    """Emit an op over arrays."""
    op = builder.emit(name, *[a.value for a in operands], loc=None, **attrs)
    return tuple(Array(builder, v) for v in op.results)


def constant(builder: Builder, value: Number | tuple[float, ...], shape: tuple[int, ...] = (),
             dtype: str = "f32") -> Array:
    """A constant: one number everywhere, or all values in order."""
    if dtype == "f32" and not isinstance(value, tuple):
        value = float(value)
    return emit(builder, "constant", value=value, shape=shape, dtype=dtype)[0]


def iota(builder: Builder, shape: tuple[Size, ...], axis: int) -> Array:
    """0, 1, 2, ... along `axis`, i32."""
    return emit(builder, "iota", shape=shape, axis=axis)[0]


def size_of(builder: Builder, dim: Size) -> Array:
    """A symbolic size as an i32 scalar."""
    return emit(builder, "size", dim=dim)[0]


def concat(arrays: list[Array], axis: int) -> Array:
    """Arrays one after the other along an axis."""
    if len(arrays) == 1:
        return arrays[0]
    axis = axis % len(arrays[0].shape)
    return emit(arrays[0].builder, "concat", *arrays, axis=axis)[0]


def trace(name: str, function: Any, types: tuple[Type, ...], builder: Builder | None = None,
          **attrs: Any) -> Function:
    """Run `function` on arguments of `types`; attrs are passed by keyword."""
    builder = builder or Builder(name)
    args = [Array(builder, builder.arg(t)) for t in types]
    out = function(*args, **attrs)
    results = out if isinstance(out, tuple) else (out,)
    return builder.finish(*[a.value for a in results])
