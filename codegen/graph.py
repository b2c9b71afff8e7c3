"""A module as a graph for Graphviz: one cluster per function, one node per op."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import networkx as nx

from firstlight.ir.core import Function, Module


def function_graph(function: Function) -> nx.DiGraph[int]:
    """The ops of a function by index, an edge where one reads what another defines.

    Node attributes: `name` (the op), `loc`, and `calls` (the callee, or ""). Edge attribute `type`.
    """
    graph: nx.DiGraph[int] = nx.DiGraph()
    index = {op: i for i, op in enumerate(function.ops)}
    for op, i in index.items():
        graph.add_node(i, name=op.name, loc=op.loc, calls=str(op.attrs.get("callee", "")))
    producers = function.producers()
    for op, i in index.items():
        for value in op.operands:
            if value in producers:
                graph.add_edge(index[producers[value]], i, type=str(value.type))
    return graph


def module_dot(module: Module) -> str:
    """The module in Graphviz' dot language; deterministic."""
    body = "\n".join(line for function in module for line in _cluster(function))
    return f"digraph firstlight {{\n  node [shape=box, fontname=monospace];\n{body}\n}}\n"


def _cluster(function: Function) -> Iterator[str]:
    graph = function_graph(function)
    prefix = function.name
    longest = nx.dag_longest_path(graph) if graph else []
    on_path = set(pairwise(longest))
    yield f"  subgraph {_quote(f'cluster_{prefix}')} {{"
    title = f"{prefix}: {len(graph)} ops, longest path {len(longest)}"
    yield f"    label={_quote(title)};"
    for i, data in graph.nodes(data=True):
        label = "\n".join(filter(None, (data["name"], data["calls"], data["loc"])))
        yield f"    {_quote(f'{prefix}.{i}')} [label={_quote(label)}];"
    for a, b, data in graph.edges(data=True):
        style = ", style=bold" if (a, b) in on_path else ""
        yield (f"    {_quote(f'{prefix}.{a}')} -> {_quote(f'{prefix}.{b}')} "
               f"[label={_quote(data['type'])}{style}];")
    yield "  }"


def _quote(text: str) -> str:
    """A dot string; JSON's escapes are dot's."""
    return json.dumps(text, ensure_ascii=False)
