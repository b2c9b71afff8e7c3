"""Functions of the IR as nodes: ops by their rows, composites and calls written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firstlight.codegen.onnx import elementwise, movement, products, reductions, roundings, states
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.table import ROWS
from firstlight.codegen.onnx.values import Val
from firstlight.ir.core import Function, Module, Op
from firstlight.ir.decompose import expand
from firstlight.ir.registry import lookup

FAMILIES = (elementwise, movement, products, reductions, roundings, states)
"""Importing them fills the table."""
Writer = Callable[[Op, Sequence[Val], Module], "Sequence[Val] | None"]


class Exporter:
    """Writes functions into a graph; `instead` may write an op in its own way, or give None."""

    def __init__(self, graph: Graph, instead: Writer = lambda op, operands, module: None) -> None:
        self.graph, self.instead = graph, instead

    def function(self, function: Function, args: Sequence[Val], module: Module,
                 path: str = "") -> list[Val]:
        """The results of a function of `module`; `path` is where it is called."""
        values = dict(zip(function.args, args, strict=True))
        for op in function.ops:
            self.graph.loc = ".".join(filter(None, (path, op.loc)))
            results = self.op(op, [values[v] for v in op.operands], module)
            values.update(zip(op.results, results, strict=True))
        return [values[v] for v in function.results]

    def op(self, op: Op, operands: Sequence[Val], module: Module) -> Sequence[Val]:
        """The results of one op."""
        own = self.instead(op, operands, module)
        if own is not None:
            return own
        info, path = lookup(op.name), self.graph.loc
        if op.name == "call":
            return self.function(module[str(op.attrs["callee"])], operands, module, path)
        if op.name == "repeat":
            callee = module[str(op.attrs["callee"])]
            for _ in range(int(str(op.attrs["count"]))):
                operands = self.function(callee, operands, module, path)
            return operands
        if info.composite:
            body, helpers = expand(info, tuple(v.type for v in operands), dict(op.attrs), module)
            return self.function(body, operands, helpers, path)
        types = [v.type for v in op.results]
        name = ROWS[op.name](self.graph, types[0], *operands, **op.attrs)
        names = (name,) if isinstance(name, str) else name
        return [Val(n, t) for n, t in zip(names, types, strict=True)]
