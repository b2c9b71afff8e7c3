"""Weights that a chip cannot store: bf16 becomes f32 when weights are packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from firstlight.codegen.kernel import Kernel
from firstlight.codegen.target import Array, ArraySpec
from firstlight.ir.core import Module, Op, Value
from firstlight.ir.types import TensorType, Type

LAYOUT = "f32"
WIDENED = {"bf16": "f32"}
"""Stored codec -> the one a kernel reads instead."""


def widened(symbol: str, op: Op, tokens: int) -> Kernel | None:
    """An override: the generic kernel over widened weights; None where there are none."""
    from firstlight.codegen.generic import generic_kernel

    types = [_wide(v.type) for v in op.operands]
    if types == [v.type for v in op.operands]:
        return None
    operands = tuple(Value(t, v.loc) for t, v in zip(types, op.operands, strict=True))
    kernel = generic_kernel(symbol, replace(op, operands=operands), Module())
    layouts = tuple(None if v.type == t else LAYOUT
                    for v, t in zip(op.operands, types, strict=True))
    return Kernel(kernel.name, kernel.func, layouts)


def _wide(type_: Type) -> Type:
    if isinstance(type_, TensorType) and type_.codec in WIDENED:
        return replace(type_, codec=WIDENED[type_.codec])
    return type_


class WideningPacker:
    """The layout ``f32`` of bf16 weights; it has their shape."""

    def shapes(self, layout: str, codec: str, shape: Sequence[int]) -> tuple[ArraySpec, None]:
        """Shape and dtype of widened weights."""
        assert (layout, codec) == (LAYOUT, "bf16")
        return (tuple(shape), "float32"), None

    def by_rows(self, layout: str) -> bool:
        """Rows stay where they are."""
        return True

    def pack(self, layout: str, codes: Array, scales: Array | None, codec: str,
             shape: Sequence[int], first_row: int = 0) -> tuple[Array, None]:
        """The bits of bf16 are the upper half of those of f32."""
        return (codes.astype(np.uint32) << 16).view(np.float32), None
