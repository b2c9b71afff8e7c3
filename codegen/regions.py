"""The parallel regions of a kernel: which loops threads share, and in how many chunks at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.codegen.tvm_bridge import PrimFunc, parallel_loops

MOST = "most"
"""Annotation of a parallel loop whose number data decide: what it never exceeds."""

OPERATIONS: Mapping[str, str] = {"Add": "add", "Sub": "sub", "Mul": "mul", "FloorDiv": "floordiv",
                                 "Div": "floordiv", "Min": "min", "Max": "max"}
"""Of TIR, by the names of `firstlight.runtime.sizes`; the sizes divided are not negative."""


def regions(func: PrimFunc) -> list[Any]:
    """Chunks of each parallel loop, in the order of the text: a size for JSON, such as 512 or
    ["mul", "S", 6]. Where data decide while the kernel runs, what is annotated as `MOST`, or None.

    A loop inside a loop or a branch is named once; one inside a parallel loop is no region. Of two
    branches that both have some, {"either": [those of one, those of the other]}.
    """
    return _regions(parallel_loops(func.body), func.params[-1])


def _regions(loops: Sequence[Any], tokens: Any) -> list[Any]:
    found: list[Any] = []
    for loop in loops:
        if isinstance(loop, tuple):
            found.append({"either": [_regions(branch, tokens) for branch in loop]})
        elif MOST in loop.annotations:
            found.append(int(loop.annotations[MOST]))
        else:
            found.append(_size(loop.extent, tokens))
    return found


def _size(extent: Any, tokens: Any) -> Any:
    kind = type(extent).__name__
    if kind == "IntImm":
        return int(extent.value)
    if kind == "Cast":
        return _size(extent.value, tokens)
    if extent.same_as(tokens):
        return "S"
    if kind not in OPERATIONS:
        return None
    a, b = _size(extent.a, tokens), _size(extent.b, tokens)
    return None if a is None or b is None else [OPERATIONS[kind], a, b]
