"""The table: how each primitive is said in standard ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = Callable[..., "str | tuple[str, ...]"]
"""(graph, result type, operands, attributes by keyword) -> the name of the result."""

ROWS: dict[str, Row] = {}
"""By primitive; `call` and `repeat` are written out and have none."""


def row(function: Any) -> Any:
    """Register a row under its function's name."""
    ROWS[function.__name__.rstrip("_")] = function
    return function
