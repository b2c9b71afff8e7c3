"""The lowering table: one row per primitive.

A row is a function of the emitter, the op and its operands that returns a recipe: a `Tensor` (each
element is an expression of others), a `Reduction` or a `Fill`. An op that writes a state emits that
and returns the state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firstlight.ir.registry import TABLE


@dataclass(frozen=True)
class Lowering:
    """How one primitive is lowered.

    `kind` says what it costs to compute an element again at each use: "view" nothing worth storing,
    "pointwise" little, so it is stored unless read only once; "stored" results are always stored.
    """

    kind: str
    function: Callable[..., Any]


LOWERINGS: dict[str, Lowering] = {}


def lower(*names: str, kind: str = "stored") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Fill the row of each of these primitives."""

    def put(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name not in TABLE or name in LOWERINGS:
                raise ValueError(f"{name} is no primitive, or it has a lowering already")
            LOWERINGS[name] = Lowering(kind, function)
        return function

    return put
