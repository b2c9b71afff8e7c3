"""The roundings of numerics `released` (spec 7), as values that stay float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import firstlight.ir.codecs as codecs
from firstlight.ir.builder import require
from firstlight.ir.ops.elementwise import elements
from firstlight.ir.registry import cost_of, op, reference_of, shape_of
from firstlight.ir.types import TensorType

F32 = NDArray[np.float32]

round_e4m3 = op("round_e4m3", ("x",), attrs={"block": int})
round_e2m1 = op("round_e2m1", ("x",), attrs={"block": int})
round_bf16 = op("round_bf16", ("x",))
hadamard = op("hadamard", ("x",))


def _blocks(x: TensorType, block: int) -> TensorType:
    last = x.shape[-1]
    require(isinstance(last, int) and block >= 1, "the last axis is a number of values")
    return x.plain


def _same(x: TensorType) -> TensorType:
    return x.plain


def _power_of_two(x: TensorType) -> TensorType:
    n = x.shape[-1]
    require(isinstance(n, int) and n & (n - 1) == 0, f"the last axis ({n}) is no power of two")
    return x.plain


shape_of(round_e4m3)(_blocks)
shape_of(round_e2m1)(_blocks)
shape_of(round_bf16)(_same)
shape_of(hadamard)(_power_of_two)
reference_of(round_e4m3)(lambda x, block: codecs.round_e4m3(x, block))
reference_of(round_e2m1)(lambda x, block: codecs.round_e2m1(x, block))
reference_of(round_bf16)(lambda x: codecs.round_bf16(x))
reference_of(hadamard)(lambda x: codecs.hadamard(x))
for _info in (round_e4m3, round_e2m1, round_bf16, hadamard):
    cost_of(_info)(elements)
