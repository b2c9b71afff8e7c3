"""A module as a readable ONNX model: composites and layers are functions of a domain of ours.

For people with a viewer, not for running: the bodies are the decompositions in standard operators,
so that any checker can follow, and weights are inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from firstlight.codegen.onnx.export import Exporter
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.models import LOGITS, NEXT
from firstlight.codegen.onnx.packages import OPSET
from firstlight.codegen.onnx.values import Val
from firstlight.ir.core import Function, Module, Op
from firstlight.ir.decompose import expand
from firstlight.ir.registry import lookup
from firstlight.ir.types import StateType
from firstlight.passes.plan_memory import alias_roots
from firstlight.passes.specialize import Specialize

DOMAIN = "firstlight"


class Functions:
    """Collects the functions of one model, callees first."""

    def __init__(self) -> None:
        self.protos: list[Any] = []
        self._names: dict[str, str] = {}
        self._taken: dict[str, int] = {}

    def exporter(self, graph: Graph) -> Exporter:
        """Writes into `graph`; composites and calls become nodes of our domain."""
        def instead(op: Op, operands: Sequence[Val], module: Module) -> Sequence[Val] | None:
            info = lookup(op.name)
            if op.name != "call" and not info.composite:
                return None
            attrs = {} if op.name == "call" else dict(op.attrs)
            name = self._function(op, operands, module)
            results = graph(name, *[v.name for v in operands], outputs=len(op.results),
                            domain=DOMAIN, **attrs)
            names = [results] if isinstance(results, str) else results
            return [Val(n, v.type) for n, v in zip(names, op.results, strict=True)]

        return Exporter(graph, instead)

    def _function(self, op: Op, operands: Sequence[Val], module: Module) -> str:
        """The name of the function that an op is a call of; it is written at its first call."""
        if op.name == "call":
            callee = str(op.attrs["callee"])
            function, name = module[callee], callee
        else:
            types = tuple(v.type for v in operands)
            function, module = expand(lookup(op.name), types, dict(op.attrs), module)
            name = op.name
        attrs = {} if op.name == "call" else op.attrs
        key = f"{name} {[str(a.type) for a in function.args]} {sorted(attrs.items())}"
        if key not in self._names:
            count = self._taken[name] = self._taken.get(name, 0) + 1
            self._names[key] = name if count == 1 else f"{name}_{count}"
            self._write(self._names[key], function, module, sorted(attrs))
        return self._names[key]

    def _write(self, name: str, function: Function, module: Module, attrs: Sequence[str]) -> None:
        graph = Graph(function=True)
        args = []
        for index, arg in enumerate(function.args):
            label = graph.unique(arg.loc or f"arg{index}")
            graph.know(label, arg.type)
            args.append(Val(label, arg.type))
        results = self.exporter(graph).function(function, args, module)
        graph.loc = ""
        outputs = [graph("Identity", result.name) if result.name in {a.name for a in args}
                   else result.name for result in results]
        make = graph.onnx.helper
        self.protos.append(make.make_function(
            DOMAIN, name, [a.name for a in args], outputs, graph.nodes,
            [make.make_opsetid("", OPSET), make.make_opsetid(DOMAIN, 1)], list(attrs)))


def readable_model(module: Module, entry: str) -> Any:
    """The model whose graph is function `entry`, for one sequence; checked by `onnx.checker`.

    Raises F460 without the package.
    """
    module = Specialize(entry=entry, tokens=0, context=0).run(module)
    function, graph, functions = module[entry], Graph(), Functions()
    inputs, args = [], []
    for arg in function.args:
        graph.know(arg.loc, arg.type)
        args.append(Val(graph.unique(arg.loc), arg.type))
        inputs.append(graph.info(arg.loc, arg.type))
    results = functions.exporter(graph).function(function, args, module)
    roots, names, outputs = alias_roots(function, module), {}, []
    for value, result in zip(function.results, results, strict=True):
        state = isinstance(value.type, StateType)
        label = graph.unique(f"{roots[value].loc}{NEXT}" if state else LOGITS)
        names[result.name] = label
        outputs.append(graph.info(label, result.type))
    graph.rename(names)
    model = graph.model(entry, inputs, outputs, functions.protos, [DOMAIN])
    graph.onnx.checker.check_model(model, full_check=True)
    return model
