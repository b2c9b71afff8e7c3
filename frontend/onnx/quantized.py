"""Rows of quantization. Integers narrower than 32 bits are int32, clamped to their range."""

from __future__ import annotations

import numpy as np

from firstlight.frontend.onnx.call import Call
from firstlight.frontend.onnx.elementwise import nearest
from firstlight.frontend.onnx.errors import Refused
from firstlight.frontend.onnx.movement import pick
from firstlight.frontend.onnx.products import product_of
from firstlight.frontend.onnx.table import decomposed, row
from firstlight.frontend.onnx.values import NARROW, Held, saturated
from firstlight.ir.array import Array


def _along(c: Call, i: int, x: Array, axis: int) -> Array:
    """A scale or zero point, shaped to go with x: one, one for each place of an axis, or blocks."""
    v, block = c.x(i), c.attr("block_size", 0)
    if block:
        places = np.arange(x.dim(axis)) // block
        return pick(v, axis, c.weights.array(Held("int64", places)))
    if len(v.shape) == 0 or v.shape == (1,):
        return v.reshape()
    if len(v.shape) != 1:
        raise Refused(f"a scale of shape {v.shape}")
    return v.reshape(v.shape[0], *(1,) * (len(x.shape) - axis - 1))


@row("QuantizeLinear", note="to int8, uint8, int16, uint16; by tensor, axis or block")
def _(c: Call) -> Held:
    to = c.held(2).dtype if c.has(2) else "uint8"
    if to not in NARROW or (not c.has(2) and c.attr("output_dtype", 0) not in (0, 2)):
        raise Refused(f"quantization to {to}")
    x = c.x(0).cast("f32")
    axis = c.axis(c.attr("axis", 1), max(len(x.shape), 2)) if len(c.held(1).shape) else 0
    y = nearest(c, x / _along(c, 1, x, axis))
    # clamped before the zero point is added, so that it fits an int32
    y = y.maximum(-1e6).minimum(1e6).cast("i32")
    if c.has(2):
        y = y + _along(c, 2, x, axis)
    return c.out(saturated(y, to), to)


@row("DequantizeLinear", note="of int8, uint8, int16, uint16, int32, constants of any type; by "
     "tensor, axis or block")
def _(c: Call) -> Held:
    x = c.x(0)
    axis = c.axis(c.attr("axis", 1), max(len(x.shape), 2)) if len(c.held(1).shape) else 0
    if c.has(2):
        x = x - _along(c, 2, x, axis)
    return c.out(x.cast("f32") * _along(c, 1, x, axis), c.held(1).dtype)


@decomposed("QLinearMatMul", note="dequantized, multiplied in float32, quantized")
def _(c: Call) -> Held:
    if any(len(c.held(i).shape) for i in (1, 2, 4, 5, 6, 7)):
        raise Refused("scales by row or column")
    a = (c.x(0) - c.x(2)).cast("f32")
    b = (c.x(3) - c.x(5)).cast("f32")
    y = product_of(a, b) * (c.x(1) * c.x(4) / c.x(6))
    to = c.held(7).dtype
    return c.out(saturated(nearest(c, y).cast("i32") + c.x(7), to), to)
