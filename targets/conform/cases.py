"""The cases of the kit: every op of the table, in the shapes and codecs that models have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from firstlight.ir import dims
from firstlight.ir.array import emit, trace
from firstlight.ir.builder import Builder
from firstlight.ir.core import Module
from firstlight.ir.registry import TABLE
from firstlight.ir.types import StateType, TensorType, Type
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.conform.data import (
    Array,
    Change,
    Make,
    Operand,
    Random,
    plain,
    state,
    stored,
)

SLOTS = 3
CONTEXT = 40
LONG = 67
"""Tokens of a prefill call beyond 64, for kernels that work on blocks of tokens."""
INLINED = {"call": "calls are inlined before kernels are chosen"}
"""Ops that no kernel stands for, and why."""


@dataclass(frozen=True)
class Case:
    """An op with operand types over B, S and C.

    Attributes:
        changes: kinds of data it is fed, ordinary numbers among them.
        values: per operand name, what makes its array; without it, normal numbers and small
            integers.
        positions: of the first token of a call.
        callee: what a `repeat` repeats.
        long: whether it is also called with `LONG` tokens.
    """

    op: str
    types: tuple[Type, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[Change, ...] = (plain,)
    values: Mapping[str, Make] = field(default_factory=dict)
    positions: tuple[int, ...] = (0,)
    callee: Callable[..., Any] | None = None
    long: bool = False

    def __str__(self) -> str:
        attrs = "".join(f" {k}={v}" for k, v in self.attrs.items())
        return f"{self.op}({', '.join(map(str, self.types))}){attrs}"

    @property
    def states(self) -> bool:
        """Whether positions are bound by the context."""
        return any(isinstance(t, StateType) for t in self.types)

    @property
    def coded(self) -> bool:
        """Whether a state is kept in a codec."""
        return any(isinstance(t, StateType) and t.codec != "f32" for t in self.types)

    def module(self, sizes: Mapping[str, int]) -> Module:
        """A module whose function `main` is this op, with symbols replaced by `sizes`."""
        types = tuple(specialised(t, sizes) for t in self.types)
        attrs, module = dict(self.attrs), Module()
        if self.callee:
            module, attrs["callee"] = module.with_function(
                trace("callee", self.callee, types)), "callee"
        attrs = {k: resolve(v, sizes) for k, v in attrs.items()}
        builder = Builder("main", module)
        if types:
            function = trace(
                "main", lambda *a: emit(a[0].builder, self.op, *a, **attrs), types, builder)
        else:
            function = builder.finish(*builder.emit(self.op, **attrs).results)
        return module.with_function(function)

    def operands(self, random: Random, sizes: Mapping[str, int], pos: int,
                 change: Change) -> Iterator[Operand]:
        """What each operand holds."""
        from firstlight.targets.conform.data import outliers

        names = TABLE[self.op].bind(len(self.types))
        for i, (name, type_) in enumerate(zip(names, self.types, strict=True)):
            here = plain if change is outliers and i else change
            if isinstance(type_, StateType):
                rows = dims.evaluate(type_.capacity, sizes)
                value = random.standard_normal((SLOTS, rows, type_.width)).astype(np.float32)
                yield state(here(random, value), type_.codec)
            else:
                shape = tuple(dims.evaluate(d, sizes) for d in type_.shape)
                value = self._array(random, name, type_, shape, pos, here)
                yield stored(random, value, type_)

    def _array(self, random: Random, name: str, type_: TensorType, shape: tuple[int, ...], pos: int,
               change: Change) -> Array:
        if name in self.values:
            return self.values[name](random, shape)
        if name == "positions":
            return (pos + np.arange(shape[1], dtype=np.int32))[None]
        if name in ("pos", "slot"):
            return np.full(shape, pos if name == "pos" else SLOTS - 1, np.int32)
        if type_.dtype == "f32":
            return change(random, random.standard_normal(shape).astype(np.float32))
        return random.integers(0, 2, shape)


def all_cases(ops: tuple[str, ...] = (),
              native: frozenset[str] = frozenset()) -> dict[str, list[Case]]:
    """Cases by op: of `ops`, or of all but the joints that are not in `native`.

    Raises F440 for a row of the op table without cases.
    """
    from firstlight.targets.conform.composites import composites
    from firstlight.targets.conform.primitives import primitives

    cases: dict[str, list[Case]] = {name: [] for name in sorted(TABLE) if name not in INLINED}
    for case in (*primitives(), *composites()):
        cases[case.op].append(case)
    empty = [name for name, found in cases.items() if not found]
    if empty:
        raise FirstlightError(
            "F440", f"the conformance kit has no cases for {', '.join(empty)}",
            where="firstlight.targets.conform", why="every row of the op table needs some",
            try_="add them in targets/conform/primitives.py or composites.py",
        )
    wanted = ops or {name for name in cases if not TABLE[name].joint or name in native}
    return {name: found for name, found in cases.items() if name in wanted}


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


def f32(*shape: dims.Size, codec: str = "") -> TensorType:
    """A float tensor; with a codec, a weight."""
    return TensorType(shape, "f32", codec)


def i32(*shape: dims.Size, codec: str = "") -> TensorType:
    """Whole numbers."""
    return TensorType(shape, "i32", codec)


def boolean(*shape: dims.Size) -> TensorType:
    """Truth values."""
    return TensorType(shape, "bool")
