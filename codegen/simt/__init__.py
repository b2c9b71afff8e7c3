"""Kernels for chips of many threads: any kernel as launches, and TVM's text for them.

    spatial    loops whose rounds are independent     schedule   a kernel as launches
    memory     arrays: a thread's own, or workspace   sizes      sizes of launches as plain data
    texts      one schedule, printed for any chip     manifest   code/launch.json
    halves     float16 by integers
    overrides  which ops have kernels of their own    weights    packed weights, read word by word
    products   vectors times matrices                 experts    the expert sublayer

Names of the compiler are imported when they are used: a target's manifest loads without it.
"""

from importlib import import_module
from typing import Any

__all__ = ["Phase", "Scheduled", "scheduled", "text"]
MODULES = {"Phase": "schedule", "Scheduled": "schedule", "scheduled": "schedule", "text": "texts"}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
