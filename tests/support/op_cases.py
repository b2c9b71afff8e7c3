"""One-op modules, and arrays for their operands: ordinary data and hostile data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from firstlight.ir import codecs, dims
from firstlight.ir.array import emit, trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module
from firstlight.ir.registry import TABLE
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, StateType, TensorType, Type

SLOTS = 3
CONTEXT = 40
CODES = {"f32": np.float32, "bf16": np.uint16, "f16": np.float16, "i64": np.int64}

Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def zero_rows(random: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Nothing at all."""
    return np.zeros_like(x)


def outliers(random: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """One value of 1e4 (in the first operand only: two of them cancel, in any arithmetic)."""
    x = x.copy()
    x.reshape(-1)[random.integers(0, x.size)] = 1e4
    return x


def ties(random: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Few different values, all exact in any order of summation."""
    return np.round(x)


def plain(random: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """As it comes."""
    return x


@dataclass(frozen=True)
class Case:
    """An op with operand types over B, S and C.

    Attributes:
        changes: kinds of data it is tested with, beside ordinary numbers.
        values: per operand name, what makes its array from (random, shape); without it, normal
            numbers and small integers.
        positions: of the first token of a call.
    """

    op: str
    types: tuple[Type, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = (plain,)
    values: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = field(
        default_factory=dict)
    positions: tuple[int, ...] = (0,)
    callee: Callable[..., Any] | None = None

    def module(self, sizes: Mapping[str, int]) -> Module:
        """A module whose function `main` is this op, with symbols replaced by `sizes`."""
        types = tuple(specialised(t, sizes) for t in self.types)
        attrs, module = dict(self.attrs), Module()
        if self.callee:
            body = trace("callee", self.callee, types)
            module, attrs["callee"] = module.with_function(body), "callee"
        attrs = {k: resolve(v, sizes) for k, v in attrs.items()}
        builder = Builder("main", module)
        if types:
            function: Function = trace(
                "main", lambda *a: emit(a[0].builder, self.op, *a, **attrs), types, builder)
        else:
            function = builder.finish(*builder.emit(self.op, **attrs).results)
        return module.with_function(function)

    def arrays(self, random: np.random.Generator, sizes: Mapping[str, int], pos: int,
               change: Change) -> Iterator["Operand"]:
        """An array for each operand."""
        names = TABLE[self.op].bind(len(self.types))
        for i, (name, type_) in enumerate(zip(names, self.types, strict=True)):
            here = plain if change is outliers and i else change
            yield self._array(random, name, type_, sizes, pos, here)

    def _array(self, random: np.random.Generator, name: str, type_: Type,
               sizes: Mapping[str, int], pos: int, change: Change) -> "Operand":
        if isinstance(type_, StateType):
            rows = dims.evaluate(type_.capacity, sizes)
            value = random.standard_normal((SLOTS, rows, type_.width)).astype(np.float32)
            return Operand(change(random, value))
        shape = tuple(dims.evaluate(d, sizes) for d in type_.shape)
        if name in self.values:
            value = self.values[name](random, shape)
        elif name == "positions":
            value = (pos + np.arange(shape[1], dtype=np.int32))[None]
        elif name in ("pos", "slot"):
            value = np.full(shape, pos if name == "pos" else SLOTS - 1, np.int32)
        elif type_.dtype == "f32":
            value = change(random, random.standard_normal(shape).astype(np.float32))
        else:
            value = random.integers(0, 2, shape)
        return stored(value, type_)


@dataclass(frozen=True)
class Operand:
    """The array a reference sees, and those a kernel's pointers refer to."""

    value: np.ndarray
    pointers: tuple[np.ndarray, ...] = ()

    def memory(self) -> tuple[np.ndarray, ...]:
        """What is in memory."""
        return self.pointers or (self.value,)


def stored(value: np.ndarray, type_: TensorType) -> Operand:
    """`value` as a weight of the type's codec; the reference sees what the codes mean."""
    if not type_.codec:
        dtype = {"f32": np.float32, "i32": np.int32, "bool": np.bool_}[type_.dtype]
        return Operand(value.astype(dtype))
    if type_.dtype == "i32":
        return Operand(value.astype(np.int32), (value.astype(CODES[type_.codec]),))
    if type_.codec not in (BLOCK_FP8, GROUP_FP4):
        codes, _ = codecs.encode_weight(value, type_.codec)
        return Operand(codecs.decode_weight(codes, None, type_.codec), (codes,))
    matrices = value.reshape(-1, *value.shape[-2:])
    pairs = [codecs.encode_weight(m, type_.codec) for m in matrices]
    codes, scales = (np.stack(part).reshape(*value.shape[:-2], *part[0].shape)
                     for part in zip(*pairs, strict=True))
    return from_codes(codes, scales, type_.codec)


def from_codes(codes: np.ndarray, scales: np.ndarray, codec: str) -> Operand:
    """A weight given by its codes and scales."""
    flat = [codecs.decode_weight(c, s, codec) for c, s in zip(
        codes.reshape(-1, *codes.shape[-2:]), scales.reshape(-1, *scales.shape[-2:]), strict=True)]
    value = np.stack(flat).reshape(*codes.shape[:-2], *flat[0].shape)
    return Operand(value, (codes, scales))


def specialised(type_: Type, sizes: Mapping[str, int]) -> Type:
    """A type with numbers for symbols, as the pass specialize makes it."""
    if isinstance(type_, StateType):
        return replace(type_, rows=dims.evaluate(type_.capacity, sizes)) if "C" in sizes else type_
    shape = tuple(dims.substitute(d, sizes) for d in type_.shape)
    return TensorType(shape, type_.dtype, type_.codec)


def resolve(attr: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with numbers for symbols."""
    if isinstance(attr, tuple):
        return tuple(resolve(a, sizes) for a in attr)
    return dims.substitute(attr, sizes) if isinstance(attr, dims.Dim) else attr


def error(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> float:
    """Largest difference relative to the largest magnitude of a result; integers must be equal."""
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        if w.dtype != np.float32:
            np.testing.assert_array_equal(g, w)
            continue
        special = ~np.isfinite(w)
        np.testing.assert_array_equal(g[special], w[special])
        if (~special).any():
            g, w = g[~special].astype(np.float64), w[~special].astype(np.float64)
            worst = max(worst, float(np.abs(g - w).max() / (np.abs(w).max() or 1.0)))
    return worst
