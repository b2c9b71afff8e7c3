"""Building functions: emit ops, types inferred, equal pure ops shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from firstlight.ir.core import Attr, Function, Module, Op, Value
from firstlight.ir.registry import lookup
from firstlight.ir.types import Type
from firstlight.runtime.errors import FirstlightError


class Builder:
    """Collects the ops of one function.

    Equal ops (same name, operands, attributes) are emitted once: tracing shares what is shared.
    """

    def __init__(self, name: str, module: Module | None = None) -> None:
        self.name = name
        self.module = module or Module()
        self.args: list[Value] = []
        self.ops: list[Op] = []
        self.loc = ""
        self.producers: dict[Value, Op] = {}
        self._known: dict[Any, Op] = {}

    def arg(self, type_: Type, loc: str = "") -> Value:
        """A new argument."""
        self.args.append(Value(type_, loc))
        return self.args[-1]

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Ops emitted inside carry the module path ``outer.name``."""
        outer, self.loc = self.loc, f"{self.loc}.{name}" if self.loc else name
        try:
            yield
        finally:
            self.loc = outer

    def emit(self, name: str, *operands: Value, loc: str | None = None, **attrs: Attr) -> Op:
        """Append (or find) an op and return it."""
        key = (name, operands, repr(sorted(attrs.items())))
        if key in self._known:
            return self._known[key]
        where = self.loc if loc is None else loc
        results = tuple(Value(t, where) for t in infer(name, operands, attrs, self.module, where))
        op = Op(name, operands, dict(sorted(attrs.items())), results, where)
        self._known[key] = op
        self.producers.update(dict.fromkeys(results, op))
        self.ops.append(op)
        return op

    def finish(self, *results: Value) -> Function:
        """The function."""
        return Function(self.name, tuple(self.args), tuple(self.ops), results)


def infer(name: str, operands: tuple[Value, ...], attrs: dict[str, Attr] | Any, module: Module,
          loc: str = "") -> tuple[Type, ...]:
    """Result types by the op's shape rule, errors in the op's own words."""
    info = lookup(name)
    types = [value.type for value in operands]
    unknown = set(attrs) - set(info.attrs)
    missing = set(info.attrs) - set(attrs)
    if unknown or missing:
        raise FirstlightError(
            "F204", f"fl.{name}: attributes {sorted(attrs)} do not fit", where=loc or f"fl.{name}",
            why=f"it takes exactly {sorted(info.attrs)}", try_="add or remove attributes",
        )
    info.bind(len(types))
    try:
        assert info.shape is not None
        if name in ("call", "repeat"):
            result = info.shape(*types, module=module, **attrs)
        else:
            result = info.shape(*types, **attrs)
    except (ShapeError, IndexError, ValueError, AttributeError, TypeError, AssertionError) as e:
        described = ", ".join(map(str, types))
        raise FirstlightError(
            "F205", f"fl.{name}({described}) {dict(attrs)} is not well formed",
            where=loc or f"fl.{name}", why=str(e) or type(e).__name__,
            try_="check the operand shapes against the op's row in firstlight.ir",
        ) from e
    return result if isinstance(result, tuple) else (result,)


class ShapeError(ValueError):
    """Raised by shape rules: the message says which rule is broken."""


def require(condition: bool, message: str) -> None:
    """Shape rules state their conditions with this."""
    if not condition:
        raise ShapeError(message)
