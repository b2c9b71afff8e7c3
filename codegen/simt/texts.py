"""The text of scheduled kernels by TVM's own generators: one schedule for any of the languages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from firstlight.codegen.simt.schedule import Scheduled
from firstlight.codegen.tvm_bridge import device_text


def text(plan: Scheduled, options: Mapping[str, Any], float_of: str) -> str:
    """One source with every launch as a kernel of its name.

    Args:
        options: of a TVM target with a generator for devices.
        float_of: the language's function from the bits of a float32 to the float32.
    """
    return device_text({phase.entry: phase.func for phase in plan.phases}, options, float_of)
