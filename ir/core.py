"""Values, ops, functions, modules: immutable, typed, in SSA form.

An op is a name with operands, attributes and results; what it means is in the tables of
`firstlight.ir.registry`. Rewriting builds new functions (`firstlight.ir.rewriter`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from firstlight.ir.dims import Dim
from firstlight.ir.types import Type

Scalar = bool | int | float | str
Attr = Scalar | Dim | tuple["int | float | Dim", ...]


@dataclass(eq=False, frozen=True)
class Value:
    """An SSA value. `loc` is the module path it came from, e.g. ``layers.7.attn.wq_a``."""

    type: Type
    loc: str = ""


@dataclass(eq=False, frozen=True)
class Op:
    """One operation. `loc` names its origin; a fused op keeps the common path of its parts."""

    name: str
    operands: tuple[Value, ...]
    attrs: Mapping[str, Attr]
    results: tuple[Value, ...]
    loc: str = ""

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value


@dataclass(eq=False, frozen=True)
class Function:
    """A function: `args`, straight-line `ops`, `results`."""

    name: str
    args: tuple[Value, ...]
    ops: tuple[Op, ...]
    results: tuple[Value, ...]

    def producers(self) -> dict[Value, Op]:
        """The op that defines each value."""
        return {value: op for op in self.ops for value in op.results}

    def users(self) -> dict[Value, list[Op]]:
        """The ops that read each value, in program order."""
        out: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.operands):
                out.setdefault(value, []).append(op)
        return out


@dataclass(eq=False, frozen=True)
class Module:
    """Functions by name; callees come before their callers."""

    functions: Mapping[str, Function] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions.values())

    def __getitem__(self, name: str) -> Function:
        return self.functions[name]

    def with_function(self, function: Function) -> Module:
        """A module in which `function` is added or replaced (its place is kept)."""
        return Module({**self.functions, function.name: function})

    def __str__(self) -> str:
        from firstlight.ir.printer import print_module

        return print_module(self)

    @property
    def hash(self) -> str:
        """SHA-256 of the text: what was compiled."""
        return hashlib.sha256(str(self).encode()).hexdigest()


def census(module_or_function: Module | Function) -> dict[str, int]:
    """How many ops of each name there are."""
    counts: dict[str, int] = {}
    functions = ([module_or_function] if isinstance(module_or_function, Function)
                 else list(module_or_function))
    for function in functions:
        for op in function.ops:
            counts[op.name] = counts.get(op.name, 0) + 1
    return dict(sorted(counts.items()))
