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


def block_scales(e: Emitter, rounding: str, x: Tensor, block: int, width: int) -> Tensor:
    """Exponents [.., ceil(width / block)] of the scales of x's first `width` columns."""
    top, floor, _, _ = FORMATS[rounding]

    def size(index: tuple[Expr, ...], k: Expr) -> Expr:
        place = index[-1] * block + k
        inside = T.min(place, T.int32(width - 1))  # the last block may be short
        return T.Select(place < width, T.abs(x.read(*index[:-1], inside)), T.float32(0))

    blocks = TensorType((*x.type.shape[:-1], -(-width // block)), "f32")
    ratio = e.place(f"{rounding}_max", Reduction(
        blocks, block, size, "max", finish=lambda v: T.max(v, T.float32(floor)) / T.float32(top)))
    return e.place(f"{rounding}_scale", Tensor(
        TensorType(blocks.shape, "i32"), lambda *i: _ceil_log2(ratio.read(*i))))


@lower(*FORMATS)
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    top, _, mantissa, bias = FORMATS[op.name]
    block, limit = op.attrs["block"], T.float32(top)
    scale = block_scales(e, op.name, x, block, x.type.shape[-1])

    def read(*index: Expr) -> Expr:
        step = scale.read(*index[:-1], index[-1] // block)
        y = T.max(T.min(x.read(*index) * power_of_two(-step), limit), -limit)
        unit = T.max(exponent_of(y), T.int32(1 - bias)) - mantissa
        return T.nearbyint(y * power_of_two(-unit)) * power_of_two(unit) * power_of_two(step)

    return Tensor(op.result.type, read)


def nearest_bf16(value: Expr) -> Expr:
    """The nearest bf16, ties to even, as a float32."""
    pattern = T.reinterpret("uint32", value)
    odd = T.bitwise_and(T.shift_right(pattern, T.uint32(16)), T.uint32(1))
    rounded = T.Select(T.NE(value, value), T.bitwise_or(pattern, T.uint32(1 << 22)),
                       pattern + T.uint32(0x7FFF) + odd)
    return T.reinterpret("float32", T.bitwise_and(rounded, T.uint32(0xFFFF0000)))


@lower("round_bf16", kind="pointwise")
def _(e: Emitter, op: Op, x: Tensor) -> Tensor:
    return Tensor(op.result.type, lambda *index: nearest_bf16(x.read(*index)))


def hadamard_of(x: Tensor) -> Reduction:
    """Entry (i, k) of the Sylvester matrix is -1 to the number of ones that i and k share."""
    width = x.type.shape[-1]
    assert isinstance(width, int)

    def term(index: tuple[Expr, ...], k: Expr) -> Expr:
        shared = T.Cast("uint32", T.bitwise_and(index[-1], k))  # CUDA counts unsigned bits only
        ones = T.Cast("int32", T.popcount(shared))
        value = x.read(*index[:-1], k)
        return T.Select(T.EQ(T.bitwise_and(ones, T.int32(1)), T.int32(1)), -value, value)

    scale = T.float32(width**-0.5)
    return Reduction(x.type, width, term, finish=lambda total: total * scale)


@lower("hadamard")
def _(e: Emitter, op: Op, x: Tensor) -> Reduction:
    return hadamard_of(x)
