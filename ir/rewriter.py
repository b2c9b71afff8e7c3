"""Rebuilding functions: copy ops through a value map, replace some, drop what is unused."""

from __future__ import annotations

from collections.abc import Callable

from firstlight.ir.builder import Builder
from firstlight.ir.core import Function, Module, Op, Value

# What stands for an op: None keeps it, otherwise one value for each of its results.
Replace = Callable[[Op, "Rewriter"], "tuple[Value, ...] | None"]


class Rewriter:
    """Copies one function; `get` gives the new value of an old one."""

    def __init__(self, function: Function, module: Module) -> None:
        self.builder = Builder(function.name, module)
        self.map: dict[Value, Value] = {}
        self.source = function
        for arg in function.args:
            self.map[arg] = self.builder.arg(arg.type, arg.loc)

    def get(self, value: Value) -> Value:
        """The new value of `value`."""
        return self.map[value]

    def definition(self, value: Value) -> Op | None:
        """The new op that defines the new value of `value`; None for an argument."""
        return self.builder.producers.get(self.get(value))

    def copy(self, op: Op) -> tuple[Value, ...]:
        """Emit `op` again over the new values."""
        operands = [self.get(v) for v in op.operands]
        return self.builder.emit(op.name, *operands, loc=op.loc, **op.attrs).results

    def run(self, replace: Replace) -> Function:
        """The new function, without ops whose results nobody reads."""
        for op in self.source.ops:
            new = replace(op, self)
            new = self.copy(op) if new is None else new
            self.map.update(zip(op.results, new, strict=True))
        results = [self.get(v) for v in self.source.results]
        return prune(self.builder.finish(*results))


def rewrite(function: Function, module: Module, replace: Replace) -> Function:
    """`function` with every op replaced as `replace` says."""
    return Rewriter(function, module).run(replace)


def prune(function: Function) -> Function:
    """Drop ops that no result depends on."""
    needed = set(function.results)
    kept = []
    for op in reversed(function.ops):
        if any(v in needed for v in op.results):
            needed.update(op.operands)
            kept.append(op)
    return Function(function.name, function.args, tuple(reversed(kept)), function.results)


def inline(builder: Builder, function: Function, args: tuple[Value, ...],
           loc: str | None = None) -> tuple[Value, ...]:
    """Emit the body of `function` on `args`; returns its results."""
    values = dict(zip(function.args, args, strict=True))
    for op in function.ops:
        new = builder.emit(op.name, *[values[v] for v in op.operands],
                           loc=op.loc if loc is None else loc, **op.attrs)
        values.update(zip(op.results, new.results, strict=True))
    return tuple(values[v] for v in function.results)
