"""The text of scheduled kernels by TVM's own generators: one schedule for any of the languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from firstlight.codegen.simt.schedule import Phase
from firstlight.codegen.tvm_bridge import device_text


def text(phases: Iterable[Phase], kind: str, options: Mapping[str, Any] | None = None) -> str:
    """One source with every phase as a kernel of its name.

    Args:
        kind: of a TVM target with a generator for devices.
        options: more of that target.
    """
    return device_text({phase.entry: phase.func for phase in phases},
                       {"kind": kind, **(options or {})})
