"""The two packages that ONNX needs, and the versions of the format that are written."""

from __future__ import annotations

import importlib
from typing import Any

from firstlight.runtime.errors import FirstlightError

OPSET = 21
"""The first with scales per block (DequantizeLinear), and nothing later is needed."""
IR_VERSION = 10


def need(package: str) -> Any:
    """The package, imported. Raises F460 with the line that installs it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise FirstlightError(
            "F460", f"the package {package!r} is not installed", where="writing or running ONNX",
            why=str(error), try_="pip install 'firstlight[onnx]'",
        ) from error
