"""Rows as a state gives them back, without the state: what a codec (`ir.rows`) does to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import dims
from firstlight.ir.array import Array, concat
from firstlight.ir.builder import require
from firstlight.ir.ops.elementwise import elements
from firstlight.ir.registry import (
    cost_of,
    decomposition_of,
    example,
    op,
    reference_of,
    shape_of,
)
from firstlight.ir.rows import held, recalled
from firstlight.ir.types import KEYS_FP4, TensorType, kv_fp8, row_codec

F32 = NDArray[np.float32]

round_rows = op("round_rows", ("x",), attrs={"codec": str}, composite=True)


@shape_of(round_rows)
def _(x: TensorType, codec: str) -> TensorType:
    """x [.., width] rounded as rows that go through a state of this codec."""
    width = x.shape[-1]
    require(isinstance(width, int) and row_codec(codec).fits(width),
            f"rows of {width} columns cannot be stored as {codec}")
    return x.plain


@reference_of(round_rows)
def _(x: F32, codec: str) -> F32:
    return recalled(held(x, codec), codec)


@decomposition_of(round_rows)
def _(x: Array, codec: str) -> Array:
    form, width = row_codec(codec), x.dim(-1)
    if form.codes in ("f32", "bf16"):
        return x if form.codes == "f32" else x.emit("round_bf16")
    if form.rotated:
        x = x.emit("hadamard")
    kept = width - form.tail
    out = x.take(-1, 0, kept).emit(f"round_{form.codes}", block=form.group)
    if form.tail:
        out = concat([out, x.take(-1, kept, width).emit("round_bf16")], -1)
    return out.emit("hadamard") if form.rotated else out


cost_of(round_rows)(elements)
for _codec, _width in (("bf16", 6), (kv_fp8(2), 6), (kv_fp8(16), 80), (KEYS_FP4, 32)):
    example(round_rows, TensorType((dims.B, dims.S, _width)), codec=_codec)
