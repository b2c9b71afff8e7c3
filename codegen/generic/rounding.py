"""Lowerings of the roundings of the released numerics, held against `firstlight.ir.codecs`."""

from __future__ import annotations

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Reduction, Tensor
from firstlight.codegen.generic.scalars import bits, exponent_of, power_of_two
from firstlight.codegen.generic.table import lower
from firstlight.codegen.tvm_bridge import T
from firstlight.ir import codecs
from firstlight.ir.core import Op
from firstlight.ir.types import TensorType

FORMATS = {
    "round_e4m3": (codecs.E4M3_MAX, 1e-4, 3, 7),
    "round_e2m1": (codecs.E2M1_MAX, 6 * 2.0**-126, 1, 1),
}
"""Largest value, smallest block maximum, mantissa bits, exponent bias (spec 7)."""


def _ceil_log2(x: Expr) -> Expr:
    """Smallest e with 2^e >= x, for a positive normal x, from its bits."""
    fraction = T.bitwise_and(bits(x), T.int32((1 << 23) - 1))
    return exponent_of(x) + T.Cast("int32", fraction > 0)


@lower(*FORMATS)
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    top, floor, mantissa, bias = FORMATS[op.name]
    block, *lead, width = op.attrs["block"], *x.type.shape
    limit = T.float32(top)

    def size(index: tuple[Expr, ...], k: Expr) -> Expr:
        place = index[-1] * block + k
        inside = T.min(place, T.int32(width - 1))  # the last block may be short
        return T.Select(place < width, T.abs(x.read(*index[:-1], inside)), T.float32(0))

    blocks = TensorType((*lead, -(-width // block)), "f32")
    ratio = e.place(f"{op.name}_max", Reduction(
        blocks, block, size, "max", finish=lambda v: T.max(v, T.float32(floor)) / limit))
    scale = e.place(f"{op.name}_scale", Tensor(
        TensorType(blocks.shape, "i32"), lambda *i: _ceil_log2(ratio.read(*i))))

    def read(*index: Expr) -> Expr:
        step = scale.read(*index[:-1], index[-1] // block)
        y = T.max(T.min(x.read(*index) * power_of_two(-step), limit), -limit)
        unit = T.max(exponent_of(y), T.int32(1 - bias)) - mantissa
        return T.nearbyint(y * power_of_two(-unit)) * power_of_two(unit) * power_of_two(step)

    return Tensor(op.result.type, read)


@lower("round_bf16", kind="pointwise")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    def read(*index: Expr) -> Expr:
        value = x.read(*index)
        pattern = T.reinterpret("uint32", value)
        odd = T.bitwise_and(T.shift_right(pattern, T.uint32(16)), T.uint32(1))
        rounded = T.Select(T.NE(value, value), T.bitwise_or(pattern, T.uint32(1 << 22)),
                           pattern + T.uint32(0x7FFF) + odd)
        return T.reinterpret("float32", T.bitwise_and(rounded, T.uint32(0xFFFF0000)))

    return Tensor(op.result.type, read)


@lower("hadamard")
def _(e: Emitter, op: Op, x: Tensor) -> Reduction:
    """Entry (i, k) of the Sylvester matrix is -1 to the number of ones that i and k share."""
    width = x.type.shape[-1]
    assert isinstance(width, int)

    def term(index: tuple[Expr, ...], k: Expr) -> Expr:
        shared = T.Cast("uint32", T.bitwise_and(index[-1], k))  # CUDA counts unsigned bits only
        ones = T.Cast("int32", T.popcount(shared))
        value = x.read(*index[:-1], k)
        return T.Select(T.EQ(T.bitwise_and(ones, T.int32(1)), T.int32(1)), -value, value)

    scale = T.float32(width**-0.5)
    return Reduction(op.result.type, width, term, finish=lambda total: total * scale)
