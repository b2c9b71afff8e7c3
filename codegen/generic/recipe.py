"""What a lowering returns: a description of each element, not loops.

The emitter decides where a recipe's elements go and in which loops they are computed, so that every
primitive is described once and schedules are a separate matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from firstlight.ir.types import StateType, TensorType

Expr = Any
"""A TIR expression, or a Python integer where it is an index."""
Read = Callable[..., Expr]
"""One index for each axis -> the element, an expression of the tensor's dtype."""


@dataclass(frozen=True)
class Tensor:
    """A tensor as the function of its index; nothing says that it is stored anywhere."""

    type: TensorType
    read: Read


@dataclass(frozen=True)
class State:
    """The memory of a state: a buffer [slots, rows, width], or bytes [slots, rows, row_bytes]."""

    type: StateType
    buffer: Any


@dataclass(frozen=True)
class Reduction:
    """finish(join of term(index, k) over k in range(extent)).

    Attributes:
        extent: length of the reduced axis.
        term: index of the result and k -> expression.
        join: "sum" or "max".
        finish: applied to the joined value.
        rows: whether consecutive k are consecutive in memory; otherwise consecutive places of the
            result's last axis are taken to be. Decides which loop is made of vectors.
    """

    type: TensorType
    extent: Expr
    term: Callable[[tuple[Expr, ...], Expr], Expr]
    join: str = "sum"
    finish: Callable[[Expr], Expr] = lambda value: value
    rows: bool = True


@dataclass(frozen=True)
class Fill:
    """Statements that write the whole of a buffer."""

    type: TensorType
    emit: Callable[[Any], None]


Recipe = Tensor | Reduction | Fill
