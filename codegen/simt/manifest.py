"""``code/launch.json``: what a runtime needs to launch kernels, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from firstlight.codegen.simt.schedule import Scheduled


def write_launches(code: Path, kernels: Iterable[Scheduled], modules: Sequence[str]) -> Path:
    """Write the launches of kernels, which are dealt out to `modules`, files of `code`, in turn."""
    document = {"schema": 1, "modules": list(modules),
                "kernels": {kernel.name: kernel.record(i % len(modules))
                            for i, kernel in enumerate(kernels)}}
    path = code / "launch.json"
    path.write_text(json.dumps(document, sort_keys=True, separators=(",", ":")) + "\n")
    return path
