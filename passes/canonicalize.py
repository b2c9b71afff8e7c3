"""canonicalize: one spelling for equal things, nothing that has no effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from firstlight.ir.core import Attr, Module, Op, Value
from firstlight.ir.dims import Size
from firstlight.ir.ops.elementwise import NUMPY
from firstlight.ir.registry import lookup
from firstlight.ir.rewriter import Rewriter, rewrite
from firstlight.ir.types import TensorType
from firstlight.passes.base import Pass
from firstlight.passes.fuse import drop_uncalled

Rule = Callable[[Op, Rewriter], "Value | None"]

# Correctly rounded wherever the code runs, so that folding them changes no bit of any result.
EXACT = frozenset({"add", "sub", "mul", "div", "neg", "minimum", "maximum", "floordiv", "mod",
                   "abs", "cast"})


def identity(op: Op, r: Rewriter) -> Value | None:
    """A slice of everything, a reshape to the same shape and the like are their operand."""
    if op.name not in ("reshape", "transpose", "slice", "broadcast", "cast", "concat"):
        return None
    if len(op.operands) != 1 or op.operands[0].type != op.result.type:
        return None
    if op.name == "transpose" and op.attrs["perm"] != tuple(range(len(_shape(op)))):
        return None
    return r.get(op.operands[0])


def _shape(op: Op) -> tuple[Size, ...]:
    type_ = op.results[0].type
    return type_.shape if isinstance(type_, TensorType) else (0,)


def fold(op: Op, r: Rewriter) -> Value | None:
    """Arithmetic on scalar constants is done now."""
    if op.name not in EXACT or _shape(op):
        return None
    sources = [r.definition(v) for v in op.operands]
    if any(s is None or s.name != "constant" for s in sources):
        return None
    reference, constant = lookup(op.name).reference, lookup("constant").reference
    assert reference is not None
    assert constant is not None
    with np.errstate(all="ignore"):
        array = reference(*[constant(**s.attrs) for s in sources if s is not None], **op.attrs)
    dtype = op.result.type.dtype  # type: ignore[union-attr]
    value: Attr = np.asarray(array, NUMPY[dtype]).item()
    return r.builder.emit("constant", loc=op.loc, value=value, shape=(), dtype=dtype).result


def chain(op: Op, r: Rewriter) -> Value | None:
    """A reshape of a reshape reads the first one's operand."""
    if op.name != "reshape":
        return None
    inner = r.definition(op.operands[0])
    if inner is None or inner.name != "reshape":
        return None
    source = inner.operands[0]
    assert isinstance(source.type, TensorType)
    if source.type == op.result.type:
        return source
    return r.builder.emit("reshape", source, loc=op.loc, **op.attrs).result


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Share equal ops, fold constants, drop identities, unused ops and unused functions.

    before   %0 = reshape(%x) {shape = same} ; %1 = add(2, 3) ; %2 = mul(%0, %1) ; %3 = mul(%0, %1)
    after    %0 = constant() {value = 5} ; %1 = mul(%x, %0)

    Decompositions are canonical already (a test says so), so this never hides a composite from the
    fusion passes. `chains` also joins reshapes of reshapes, which would: it is for afterwards.
    """

    name: ClassVar[str] = "canonicalize"
    rules: ClassVar[tuple[Rule, ...]] = (identity, fold)
    chains: bool = False

    def run(self, module: Module) -> Module:
        """The module in canonical form."""
        rules = (*self.rules, chain) if self.chains else self.rules

        def replace(op: Op, r: Rewriter) -> tuple[Value, ...] | None:
            for rule in rules:
                value = rule(op, r)
                if value is not None:
                    return (value,)
            return None

        out = module
        for function in module:
            out = out.with_function(rewrite(function, out, replace))
        return drop_uncalled(out, module)
