"""What a row of the operator table is given: a node with its inputs, attributes and the builder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.values import Held, kind, numbers
from firstlight.ir.array import Array, concat, constant, size_of
from firstlight.ir.builder import Builder
from firstlight.ir.dims import Dim
from firstlight.ir.types import TensorType

SMALL = 64
"""Known values of so many elements are constants of the IR, larger ones weights."""


@dataclass
class Weights:
    """Known values as arguments of the graph: the same array is one argument."""

    builder: Builder
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    _lifted: dict[Any, Array] = field(default_factory=dict)
    _kept: list[Any] = field(default_factory=list)

    def array(self, held: Held) -> Array:
        """A value in the IR, whatever it is."""
        if held.array is not None:
            return held.array
        assert held.known is not None
        key = id(held.known)
        if key not in self._lifted:
            self._kept.append(held.known)       # ids are of arrays that live
            self._lifted[key] = self._lift(held.known)
        return self._lifted[key]

    def matrix(self, known: NDArray[Any], transposed: bool) -> Array:
        """A known matrix, or its transpose, as a float32 weight; one for all products with it."""
        key = id(known), transposed
        if key not in self._lifted:
            self._kept.append(known)
            self._lifted[key] = self.weight(np.ascontiguousarray(
                known.T if transposed else known, dtype=np.float32))
        return self._lifted[key]

    def weight(self, values: NDArray[Any], label: str = "") -> Array:
        """An argument with these float32 or int32 elements."""
        codec = {"float32": "f32", "int32": "i32"}[str(values.dtype)]
        name = f"w{len(self.arrays)}" + (f".{label}" if label else "")
        self.arrays[name] = values
        type_ = TensorType(tuple(values.shape), "f32" if codec == "f32" else "i32", codec)
        return Array(self.builder, self.builder.arg(type_, name))

    def _lift(self, known: NDArray[Any]) -> Array:
        if known.dtype == object:
            parts = [size_of(self.builder, v).reshape(1) if isinstance(v, Dim)
                     else constant(self.builder, int(v), (1,), "i32") for v in known.reshape(-1)]
            return concat(parts, 0).reshape(*known.shape)
        if not known.size:
            raise Refused("a tensor without elements")
        values = numbers(known)
        which = kind(str(known.dtype))
        if values.size <= SMALL:
            flat = tuple(values.reshape(-1).tolist())
            one = flat[0] if len(set(flat)) == 1 and flat[0] == flat[0] else flat
            if not isinstance(one, tuple) and which == "f32":
                one = float(one)
            return constant(self.builder, one, tuple(values.shape), which)
        if which == "bool":
            return self.weight(values.astype(np.int32)).cast("bool")
        return self.weight(values)


@dataclass(frozen=True)
class Call:
    """A node: `ins` are its inputs, None where one is left out."""

    op: str
    opset: int
    attrs: dict[str, Any]
    ins: list[Held | None]
    weights: Weights
    outs: int

    @property
    def builder(self) -> Builder:
        """Where primitives go."""
        return self.weights.builder

    def has(self, i: int) -> bool:
        """Whether input i is given."""
        return i < len(self.ins) and self.ins[i] is not None

    def held(self, i: int) -> Held:
        """Input i. Raises Refused if it is left out."""
        if not self.has(i):
            raise Refused(f"its input {i} is missing")
        value = self.ins[i]
        assert value is not None
        return value

    def x(self, i: int = 0) -> Array:
        """Input i as an array of the IR."""
        held = self.held(i)
        if not held.symbolic:
            kind(held.dtype)
        return self.weights.array(held)

    def known(self, i: int) -> NDArray[Any] | None:
        """Elements of input i if they are known (object where some are open sizes)."""
        return self.held(i).known

    def constant(self, i: int, what: str) -> NDArray[Any]:
        """Elements of input i, which must be known numbers."""
        known = self.held(i).known
        if known is None or known.dtype == object:
            raise Refused(f"its {what} must be known when compiling")
        return known

    def integers(self, i: int, what: str) -> tuple[int, ...]:
        """Input i as known integers."""
        return tuple(int(v) for v in self.constant(i, what).reshape(-1))

    def attr(self, name: str, default: Any) -> Any:
        """An attribute, of its default's type."""
        value = self.attrs.get(name, default)
        if isinstance(default, str) and isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if default is not None and not isinstance(value, type(default)) and not (
                isinstance(default, (list, tuple)) and isinstance(value, (list, tuple))):
            raise Refused(f"its attribute {name} is {value!r}"[:120])
        return value

    def axis(self, value: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= value < rank:
            raise Refused(f"axis {value} of a tensor of rank {rank}")
        return value % rank

    def out(self, array: Array, dtype: str | None = None) -> Held:
        """A result, of the first input's element type unless another is given."""
        return Held(self.held(0).dtype if dtype is None else dtype, None, array)

    def number(self, value: float, dtype: str = "f32") -> Array:
        """A scalar constant."""
        return constant(self.builder, value, (), dtype)

    def where(self, condition: Array, a: Array, b: Array) -> Array:
        """a where the condition holds, else b."""
        return condition.emit("select", a, b)
