"""ONNX import: a graph that others wrote becomes an IR module. `read_graph` is the door."""

from firstlight.frontend.onnx.importer import Graph, read_graph
from firstlight.frontend.onnx.table import support_table

__all__ = ["Graph", "read_graph", "support_table"]
