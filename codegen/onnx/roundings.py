"""Rows of the roundings of numerics `released`."""

from __future__ import annotations

from typing import Any

import numpy as np

from firstlight.codegen.onnx.elementwise import F32
from firstlight.codegen.onnx.graph import Graph
from firstlight.codegen.onnx.table import row
from firstlight.codegen.onnx.values import Val
from firstlight.ir import codecs
from firstlight.ir.types import TensorType

BFLOAT16, FLOAT8E4M3FN = 16, 17
LEAST = -149
POWERS = np.exp2(np.arange(LEAST, 128, dtype=np.float64)).astype(np.float32)


@row
def round_bf16(g: Graph, out: TensorType, x: Val) -> str:
    return str(g("Cast", g("Cast", x.plain(g), to=BFLOAT16), to=F32))


@row
def hadamard(g: Graph, out: TensorType, x: Val) -> str:
    """A product with the matrix of ones and minus ones."""
    n = x.shape[-1]
    assert isinstance(n, int)
    signs = [[-1.0 if (i & j).bit_count() % 2 else 1.0 for j in range(n)] for i in range(n)]
    product = g("MatMul", x.plain(g), np.array(signs, np.float32))
    return str(g("Mul", product, np.float32(n**-0.5)))


@row
def round_e4m3(g: Graph, out: TensorType, x: Val, block: int) -> str:
    def nearest(y: str) -> str:
        return str(g("Cast", g("Cast", y, to=FLOAT8E4M3FN), to=F32))

    return _in_blocks(g, x, block, codecs.E4M3_MAX, 1e-4, nearest)


@row
def round_e2m1(g: Graph, out: TensorType, x: Val, block: int) -> str:
    """Steps of 1/2 below 2, of 1 below 4, of 2 up to 6; ties to even."""
    def nearest(y: str) -> str:
        size = g("Abs", y)
        step = g("Where", g("Less", size, np.float32(2)), np.float32(0.5),
                 g("Where", g("Less", size, np.float32(4)), np.float32(1), np.float32(2)))
        return str(g("Mul", g("Round", g("Div", y, step)), step))

    return _in_blocks(g, x, block, codecs.E2M1_MAX, 6 * 2.0**-126, nearest)


def _in_blocks(g: Graph, x: Val, block: int, top: float, floor: float, nearest: Any) -> str:
    """Scale each block of the last axis by a power of two, round, and scale back."""
    n = x.shape[-1]
    assert isinstance(n, int)
    name, fill = x.plain(g), -n % block
    if fill:
        name = g("Pad", name, [0] * (2 * len(x.shape) - 1) + [fill], np.float32(0))
    blocks = g("Reshape", name, [-1, (n + fill) // block, block])
    most = g("Max", g("ReduceMax", g("Abs", blocks), [2], keepdims=1), np.float32(floor))
    scale = _power_above(g, g("Div", most, np.float32(top)))
    y = g("Min", g("Max", g("Div", blocks, scale), np.float32(-top)), np.float32(top))
    y = g("Mul", nearest(y), scale)
    y = g("Reshape", y, [-1, n + fill])
    y = g("Slice", y, [0], [n], [1]) if fill else y
    return str(g("Reshape", y, g.shape(x.shape)))


def _power_above(g: Graph, x: str) -> str:
    """The smallest power of two >= x > 0: the logarithm's guess, made exact from a table."""
    guess = g("Ceil", g("Div", g("Log", x), np.float32(np.log(2))))
    at = g("Cast", g("Sub", g("Max", guess, np.float32(LEAST + 1)), np.float32(LEAST)), to=7)
    power = g("Gather", POWERS, at, axis=0)
    half = g("Mul", power, np.float32(0.5))
    higher = g("Where", g("Less", power, x), g("Mul", power, np.float32(2)), power)
    return str(g("Where", g("GreaterOrEqual", half, x), half, higher))
