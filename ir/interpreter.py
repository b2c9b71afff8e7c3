"""Running IR on numpy arrays by the ops' references: slow, and obviously right."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.core import Attr, Function, Module, Op
from firstlight.ir.dims import Dim
from firstlight.ir.registry import lookup

Array = NDArray[Any]


def run(module: Module, name: str, args: list[Array], sizes: Mapping[str, int]) -> list[Array]:
    """Results of function `name`; `sizes` gives B, S and C. State results are new arrays."""
    return Interpreter(module, sizes).function(module[name], args)


class Interpreter:
    """Evaluates functions of one module at fixed sizes."""

    def __init__(self, module: Module, sizes: Mapping[str, int]) -> None:
        self.module, self.sizes = module, sizes

    def function(self, function: Function, args: list[Array]) -> list[Array]:
        """Results of a function for `args` (weights decoded, states [slots, rows, width])."""
        values = dict(zip(function.args, args, strict=True))
        for op in function.ops:
            results = self.op(op, [values[v] for v in op.operands])
            values.update(zip(op.results, results, strict=True))
        return [values[v] for v in function.results]

    def op(self, op: Op, args: list[Array]) -> list[Array]:
        """Results of one op."""
        if op.name == "call":
            return self.function(self.module[str(op.attrs["callee"])], args)
        if op.name == "repeat":
            for _ in range(int(str(op.attrs["count"]))):
                args = self.function(self.module[str(op.attrs["callee"])], args)
            return args
        reference = lookup(op.name).reference
        assert reference is not None
        attrs = {k: resolve(v, self.sizes) for k, v in op.attrs.items()}
        if wants_types(op.name):
            attrs["types"] = tuple(v.type for v in op.operands)
        with np.errstate(over="ignore", invalid="ignore", under="ignore", divide="ignore"):
            out = reference(*args, **attrs)
        results = list(out) if isinstance(out, tuple) else [out]
        return [np.asarray(r, np.float32) if getattr(r, "dtype", None) == np.float64 else r
                for r in results]


@cache
def wants_types(name: str) -> bool:
    """Whether the reference of an op asks for operand types: arrays do not hold state ratios."""
    reference = lookup(name).reference
    if reference is None or isinstance(reference, np.ufunc) or reference is np.where:
        return False
    return "types" in signature(reference).parameters


def resolve(attr: Attr, sizes: Mapping[str, int]) -> Any:
    """An attribute with its symbolic dimensions replaced by numbers."""
    if isinstance(attr, Dim):
        return dims.evaluate(attr, sizes)
    if isinstance(attr, tuple):
        return tuple(dims.evaluate(a, sizes) if isinstance(a, Dim) else a for a in attr)
    return attr
