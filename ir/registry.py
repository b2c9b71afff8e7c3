"""The tables: what each op name means.

    signature       `op(...)`            operand, result and attribute names
    shape rule      `@shape_of(...)`     operand types and attributes -> result types
    numpy meaning   `@reference_of(...)` arrays and attributes -> arrays
    cost            `@cost_of(...)`      operand types, result types -> flops (types give bytes)
    decomposition   `@decomposition_of(...)` composites only: traced arrays -> traced arrays
    examples        signatures that the tests and the fusion engine instantiate (composites)

A new op is one row; `tests/ir/test_tables.py` lists empty cells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from firstlight.ir.core import Attr
from firstlight.ir.types import Type
from firstlight.runtime.errors import FirstlightError

ShapeRule = Callable[..., "Type | tuple[Type, ...]"]


@dataclass
class OpInfo:
    """One row. ``ins`` may end in ``?`` (optional) or ``*`` (any number).

    joint: a composite of composites, which a target without a kernel of its own for it decomposes.
    """

    name: str
    ins: tuple[str, ...]
    outs: tuple[str, ...]
    attrs: Mapping[str, type] = field(default_factory=dict)
    composite: bool = False
    joint: bool = False
    shape: ShapeRule | None = None
    reference: Callable[..., Any] | None = None
    cost: Callable[..., float] | None = None
    decomposition: Callable[..., Any] | None = None
    examples: tuple[tuple[tuple[Type, ...], Mapping[str, Attr]], ...] = ()

    def bind(self, count: int) -> tuple[str, ...]:
        """Names of `count` operands, leaving out optional ones that are absent."""
        if self.ins and self.ins[-1].endswith("*"):
            fixed = self.ins[:-1]
            return (*fixed, *[f"{self.ins[-1][:-1]}{i}" for i in range(count - len(fixed))])
        absent = len(self.ins) - count
        names = []
        for name in reversed(self.ins):
            if name.endswith("?") and absent > 0:
                absent -= 1
            else:
                names.append(name.removesuffix("?"))
        if absent != 0:
            raise FirstlightError(
                "F202", f"op '{self.name}' takes {len(self.ins)} operands, got {count}",
                where=f"fl.{self.name}", why=f"its signature is ({', '.join(self.ins)})",
                try_="check the op's row in firstlight.ir.ops",
            )
        return tuple(reversed(names))


TABLE: dict[str, OpInfo] = {}


def op(name: str, ins: tuple[str, ...], outs: tuple[str, ...] = ("y",), *,
       attrs: Mapping[str, type] | None = None, composite: bool = False,
       joint: bool = False) -> OpInfo:
    """Declare an op."""
    if name in TABLE:
        raise ValueError(f"op {name} is declared twice")
    TABLE[name] = OpInfo(name, ins, outs, dict(attrs or {}), composite or joint, joint)
    return TABLE[name]


def lookup(name: str) -> OpInfo:
    """The row of `name`."""
    if name not in TABLE:
        raise FirstlightError(
            "F203", f"unknown op 'fl.{name}'", where=f"fl.{name}",
            why="no row of the op table has this name",
            try_="`firstlight.ir.registry.TABLE` lists the known ops",
        )
    return TABLE[name]


def _setter(cell: str) -> Callable[[OpInfo], Callable[[Any], Any]]:
    def choose(info: OpInfo) -> Callable[[Any], Any]:
        def put(function: Any) -> Any:
            setattr(info, cell, function)
            return function

        return put

    return choose


shape_of = _setter("shape")
reference_of = _setter("reference")
cost_of = _setter("cost")
decomposition_of = _setter("decomposition")


def example(info: OpInfo, *types: Type, **attrs: Attr) -> None:
    """Add a signature for which the op is well formed."""
    info.examples = (*info.examples, (types, attrs))
