"""Models as `onnx` sees them: its checker with full shape inference, and their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from firstlight.codegen.onnx.packages import need
from firstlight.runtime.errors import FirstlightError

LIMIT = 2**31 - 1
"""Bytes that a protobuf message may have."""


def check_bytes(model: bytes) -> None:
    """Raise what `onnx.checker` raises for a model without outside data."""
    onnx = need("onnx")
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)


def save_checked(model: Any, path: Path) -> None:
    """Write a model (its data file is there already) and let `onnx.checker` read it.

    Raises F462 for what the checker refuses, or a graph beyond the size of a message.
    """
    onnx = need("onnx")
    try:
        data = model.SerializeToString(deterministic=True)
        if len(data) > LIMIT:
            raise ValueError(f"the graph alone has {len(data)} bytes, a message at most {LIMIT}")
        path.write_bytes(data)
        onnx.checker.check_model(str(path), full_check=True)
    except (ValueError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FirstlightError(
            "F462", f"{path.name} is no valid model", where=path.name,
            why=str(error).splitlines()[0][:300], try_="please report it with the checkpoint",
        ) from error
