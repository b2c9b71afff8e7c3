"""An artifact of ONNX graphs: one model per entry, one data file for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firstlight.codegen.onnx.checking import save_checked
from firstlight.codegen.onnx.library import Library
from firstlight.codegen.onnx.models import entry_graph
from firstlight.codegen.onnx.packages import need
from firstlight.codegen.onnx.storing import initializers, write_data
from firstlight.codegen.target import Assembly
from firstlight.runtime.safetensors import Written

DATA = "weights/model.safetensors"
"""The data file; a safetensors file is as good a home for outside data as any."""


def assemble(assembly: Assembly) -> Mapping[str, Written]:
    """Write `ENTRY.onnx` of every entry, and the data file. Raises F460, F462."""
    onnx, library = need("onnx"), Library(assembly.options["weights"])
    progress, graphs = assembly.progress, []
    for done, entry in enumerate(assembly.entries):
        progress("graphs", done, len(assembly.entries))
        tokens = entry.tokens if entry.tokens == 1 else 0
        graphs.append(entry_graph(entry.name, assembly.module, entry.function, tokens, library))
    data = assembly.folder / DATA
    data.parent.mkdir(exist_ok=True)
    written = write_data(data, library, assembly.sources,
                         lambda done, total: progress("weights", done, total))
    metadata = _metadata(assembly)
    for done, graph in enumerate(graphs):
        progress("check", done, len(graphs))
        model = graph.model(metadata)
        model.graph.initializer.extend(
            initializers(onnx, library.of(graph.graph), data, DATA))
        save_checked(model, assembly.folder / f"{graph.name}.onnx")
    return {DATA: written}


def _metadata(assembly: Assembly) -> dict[str, Any]:
    """What a reader of a model alone would want to know."""
    return {
        "firstlight.model": dict(assembly.model),
        "firstlight.limits": {"context": assembly.context, "chunk": assembly.chunk},
        "firstlight.options": dict(assembly.options),
        "firstlight.state_plan": dict(assembly.state),
        "firstlight.tokenizer": "tokenizer.json",
    }
