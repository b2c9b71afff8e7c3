"""The road of an ONNX model: a file in, an artifact with named inputs and outputs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from firstlight import targets
from firstlight.codegen.artifact import refuse_impossible, refuse_occupied
from firstlight.codegen.compile import CompileOptions
from firstlight.codegen.graphs import compile_graph, prepare_graph
from firstlight.frontend.onnx import Graph, read_graph
from firstlight.ir.core import census


def compile_onnx(path: Path, out: Path | None, options: CompileOptions, sizes: Mapping[str, str],
                 progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Any]:
    """Compile the model at `path`; without `out`, only say what would be compiled.

    `sizes` as in `frontend.onnx.read_graph`. Returns the report; raises FirstlightError.
    """
    target = targets.find(options.target)
    if out is not None:
        refuse_occupied(out, options.force)
        refuse_impossible(out)
    progress("read", 0, 1)
    graph = read_graph(path, sizes)
    if out is None:
        module = prepare_graph(graph.module, target, options, graph.most)
        return {"target": target.name, "inputs": {p.name: [p.dtype, *map(str, p.shape)]
                                                  for p in graph.inputs},
                "outputs": {p.name: [p.dtype, *map(str, p.shape)] for p, _ in graph.outputs},
                "ops": census(module["graph"]),
                "weight_bytes": sum(w.nbytes for w in graph.weights.values())}
    return write_graph(graph, out, options, progress)


def write_graph(graph: Graph, out: Path, options: CompileOptions,
                progress: Callable[[str, int, int], None] = lambda *_: None) -> dict[str, Any]:
    """Compile an imported graph."""
    target = targets.find(options.target)
    progress("passes", 0, 1)
    module = prepare_graph(graph.module, target, options, graph.most)
    return compile_graph(
        module, target, options, out,
        {p.name: (p.dtype, p.shape, 0) for p in graph.inputs},
        {p.name: (p.dtype, p.shape, i) for p, i in graph.outputs}, graph.weights, graph.most,
        {"name": graph.name,
         "graph": {"symbol": graph.symbol, "most": graph.most,
                   "inputs": [p.name for p in graph.inputs],
                   "outputs": [p.name for p, _ in graph.outputs]},
         "provenance": {"opset": graph.opset, "sizes": dict(graph.sizes),
                        "ir_hash": graph.module.hash}}, progress)
