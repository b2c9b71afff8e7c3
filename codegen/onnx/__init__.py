"""ONNX: functions of the IR as graphs of standard operators, one table row for each primitive.

Composites are written as their decompositions, calls and repeats are written out, and B is 1. The
packages `onnx` and `onnxruntime` are imported when they are needed (`packages`).
"""

from __future__ import annotations

from firstlight.codegen.onnx.packages import OPSET, need

__all__ = ["OPSET", "need"]
