"""The graphs of a model's entries: tokens, position and state in; logits and new state out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from firstlight.codegen.onnx.elementwise import I32
from firstlight.codegen.onnx.export import Exporter
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.library import Library, Parameter
from firstlight.codegen.onnx.values import Val
from firstlight.ir import dims
from firstlight.ir.core import Module, Value
from firstlight.ir.types import StateType, TensorType
from firstlight.passes.plan_memory import alias_roots
from firstlight.passes.specialize import Specialize

LOGITS, NEXT = "logits", ".next"
"""The name of the output, and what follows a state's name where it comes out."""


@dataclass(frozen=True)
class EntryGraph:
    """One entry: its graph, inputs and outputs, and for each state how it goes through."""

    name: str
    graph: Graph
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    states: Sequence[Mapping[str, Any]]

    def model(self, metadata: Mapping[str, Any]) -> Any:
        """The model; metadata values that are not text become JSON."""
        model = self.graph.model(self.name, self.inputs, self.outputs)
        for key, value in {**metadata, "firstlight.states": self.states}.items():
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            model.metadata_props.add(key=key, value=text)
        return model


def entry_graph(title: str, module: Module, entry: str, tokens: int, library: Library
                ) -> EntryGraph:
    """The graph of function `entry` for one sequence, states of any length.

    Args:
        title: the graph's name.
        tokens: of a call; 0 leaves their number open.
        library: gets the weights that are read.
    """
    module = Specialize(entry=entry, tokens=tokens, context=0).run(module)
    function, graph = module[entry], Graph()
    inputs = []
    for arg in function.args:
        if isinstance(arg.type, StateType) or arg.loc in ("tokens", "pos"):
            graph.know(arg.loc, arg.type)
            inputs.append(graph.info(arg.loc, arg.type))
            graph.unique(arg.loc)
    args = [_argument(graph, arg, library, tokens) for arg in function.args]
    results = Exporter(graph).function(function, args, module)
    roots = alias_roots(function, module)
    readers: dict[str, list[str]] = {}
    for node in graph.nodes:
        for given in node.input:
            readers.setdefault(given, []).append(node.op_type)
    names, outputs, states = {}, [], []
    for value, result in zip(function.results, results, strict=True):
        name = LOGITS
        if isinstance(value.type, StateType):
            state = roots[value]
            name = f"{state.loc}{NEXT}"
            states.append(_through(state, readers[state.loc]))
        names[result.name] = graph.unique(name)
        outputs.append(graph.info(name, result.type))
    graph.rename(names)
    return EntryGraph(title, graph, inputs, outputs, states)


def _argument(graph: Graph, arg: Value, library: Library, tokens: int) -> Val:
    """An argument: an input, a constant (there is one slot), a size, or a weight."""
    if isinstance(arg.type, StateType) or arg.loc in ("tokens", "pos"):
        return Val(arg.loc, arg.type)
    if arg.loc == "slot" or (arg.loc == "last" and tokens == 1):
        return Val(graph.constant(np.zeros(1, np.int32)), arg.type)
    if arg.loc == "last":
        count = graph("Cast", graph.size(dims.S), to=I32)
        return Val(graph("Sub", count, np.int32(1)), arg.type)
    assert isinstance(arg.type, TensorType)
    return Parameter(arg.loc, arg.type, library)


def _through(state: Value, readers: Sequence[str]) -> Mapping[str, Any]:
    """How a state goes through: `in_place` if nothing but the node that writes it reads the old
    one (its shape does not count), so that input and output may be the same memory."""
    assert isinstance(state.type, StateType)
    in_place = [op for op in readers if op != "Shape"] == ["ScatterND"]
    return {"name": state.loc, "input": state.loc, "output": f"{state.loc}{NEXT}",
            "kind": state.type.kind, "ratio": state.type.ratio, "rows": state.type.rows,
            "width": state.type.width, "in_place": in_place}
