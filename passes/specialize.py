"""Fix symbolic sizes: B = 1, the context, and for decode S = 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from firstlight.ir import dims, interpreter
from firstlight.ir.builder import Builder
from firstlight.ir.core import Attr, Function, Module, Op, Value
from firstlight.ir.decompose import ordered
from firstlight.ir.dims import Dim
from firstlight.ir.rewriter import prune
from firstlight.ir.types import StateType, TensorType, Type
from firstlight.passes.base import Pass

FOLD_LIMIT = 4096


@dataclass(frozen=True)
class Specialize(Pass):
    """Replace symbols by numbers, keep only what `entry` calls, and fold what became constant.

    before   %0 = iota() {shape = [1, "S"]} : !fl.tensor<1xSxi32>          (batch=1, tokens=1)
    after    %0 = constant() {value = [0], shape = [1, 1]} : !fl.tensor<1x1xi32>

    tokens = 0 leaves S symbolic (prefill: any number of tokens up to the chunk), and context = 0
    leaves C (states of any length).
    """

    name: ClassVar[str] = "specialize"
    entry: str = "score"
    batch: int = 1
    tokens: int = 1
    context: int = 4096

    def run(self, module: Module) -> Module:
        """The module of one entry at fixed sizes."""
        given = {"B": self.batch, "C": self.context, "S": self.tokens}
        sizes = {name: size for name, size in given.items() if size}
        out = Module()
        for function in _reachable(module, self.entry):
            out = out.with_function(_specialize(function, out, sizes))
        return out


def _reachable(module: Module, entry: str) -> list[Function]:
    names = [entry]
    for name in names:
        names += [str(op.attrs["callee"]) for op in module[name].ops
                  if "callee" in op.attrs and op.attrs["callee"] not in names]
    return list(ordered(Module({n: module[n] for n in reversed(names)})))


def _specialize(function: Function, done: Module, sizes: Mapping[str, int]) -> Function:
    builder = Builder(function.name, done)
    values: dict[Value, Value] = {
        arg: builder.arg(_type(arg.type, sizes), arg.loc) for arg in function.args
    }
    for op in function.ops:
        attrs = {k: _attr(v, sizes) for k, v in op.attrs.items()}
        new = builder.emit(op.name, *[values[v] for v in op.operands], loc=op.loc, **attrs)
        values.update(zip(op.results, new.results, strict=True))
    return _fold(builder.finish(*[values[v] for v in function.results]), done)


def _type(type_: Type, sizes: Mapping[str, int]) -> Type:
    if isinstance(type_, StateType):
        rows = dims.substitute(type_.capacity, sizes)
        return replace(type_, rows=rows) if isinstance(rows, int) else type_
    return TensorType(tuple(dims.substitute(d, sizes) for d in type_.shape), type_.dtype,
                      type_.codec)


def _attr(attr: Attr, sizes: Mapping[str, int]) -> Attr:
    if isinstance(attr, Dim):
        return dims.substitute(attr, sizes)
    if isinstance(attr, tuple):
        return tuple(dims.substitute(a, sizes) if isinstance(a, Dim) else a for a in attr)
    return attr


def _fold(function: Function, module: Module) -> Function:
    """Evaluate ops that read nothing but constants, by their reference."""
    builder = Builder(function.name, module)
    values: dict[Value, Value] = {a: builder.arg(a.type, a.loc) for a in function.args}
    known: dict[Value, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    interpret = interpreter.Interpreter(module, {})
    for op in function.ops:
        operands = [values[v] for v in op.operands]
        if _foldable(op) and all(v in known for v in operands):
            array = interpret.op(op, [known[v] for v in operands])[0]
            new = _constant(builder, array, op)
            known[new.results[0]] = array
        else:
            new = builder.emit(op.name, *operands, loc=op.loc, **op.attrs)
        values.update(zip(op.results, new.results, strict=True))
    return prune(builder.finish(*[values[v] for v in function.results]))


def _foldable(op: Op) -> bool:
    type_ = op.results[0].type
    if op.name in ("call", "copy", "repeat") or len(op.results) > 1:
        return False
    if not isinstance(type_, TensorType):
        return False
    flat = [d for a in op.attrs.values() for d in (a if isinstance(a, tuple) else (a,))]
    return (not any(isinstance(d, Dim) for d in (*flat, *type_.shape))
            and dims.product(type_.shape) <= FOLD_LIMIT)


def _constant(builder: Builder, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
              op: Op) -> Op:
    type_ = op.results[0].type
    assert isinstance(type_, TensorType)
    value = tuple(array.reshape(-1).tolist())
    short: Attr = value[0] if len(set(value)) == 1 and value[0] == value[0] else value
    return builder.emit("constant", loc=op.loc, value=short, shape=type_.shape, dtype=type_.dtype)
