"""Reading operands from memory: plain tensors, and weights in the codecs checkpoints have.

Decoding uses integers and powers of two only: it is exact for subnormal codes and for the scales
2^-127 .. 2^127, also where a chip flushes subnormal floats of its own (a scale of 2^-127 excepted).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from firstlight.codegen.generic.recipe import Expr, Read, State, Tensor
from firstlight.codegen.generic.scalars import DTYPES, load, power_of_two
from firstlight.codegen.tvm_bridge import T, named
from firstlight.ir import codecs
from firstlight.ir.types import (
    BLOCK_FP8,
    CODECS,
    GROUP_FP4,
    GROUP_INT4,
    GROUP_INT8,
    MXFP8,
    StateType,
    TensorType,
    Type,
)

SLOTS = 1 << 20
"""More slots than any state has. How many there are is not a kernel's business."""
WIDE = 1 << 31
"""Weights of so many elements (stacked experts) are indexed with 64 bits."""


def pointer_types(type_: Type) -> list[str]:
    """Element types of the pointers that stand for an operand: codes, and scales if it has any."""
    if isinstance(type_, StateType):
        return ["float32" if type_.codec == "f32" else "uint8"]
    if not type_.codec:
        return [DTYPES[type_.dtype]]
    codec = CODECS[type_.codec]
    return [codec.codes, codec.scales] if codec.scales else [codec.codes]


def buffer_at(name: str, pointer: Expr, shape: Sequence[Expr], dtype: str) -> Any:
    """The C-contiguous memory behind a pointer; a scalar has one place."""
    return named(name, T.decl_buffer(tuple(shape) or (1,), dtype, data=pointer))


def state_operand(name: str, type_: StateType, capacity: Expr, pointer: Expr) -> State:
    """A state's memory, [slots, rows, width] float32, or [slots, rows, bytes of a row]."""
    (dtype,) = pointer_types(type_)
    row = type_.width if dtype == "float32" else type_.row_bytes
    return State(type_, buffer_at(name, pointer, (T.int64(SLOTS), capacity, row), dtype))


def tensor_operand(name: str, type_: TensorType, extents: Sequence[Expr],
                   pointers: Sequence[Expr]) -> Tensor:
    """An operand as the function of its index, decoded."""
    if type_.codec == BLOCK_FP8:
        read = _read_fp8(name, extents, pointers)
    elif type_.codec in GROUPS:
        read = _read_groups(name, type_.codec, extents, pointers)
    else:
        read = _read_plain(name, type_, extents, pointers)
    large = all(isinstance(e, int) for e in extents) and math.prod(extents) >= WIDE

    def read_wide(first: Expr, *rest: Expr) -> Expr:
        return read(T.Cast("int64", first), *rest)

    return Tensor(type_.plain, read_wide if large else read)


def _read_plain(name: str, type_: TensorType, extents: Sequence[Expr],
                pointers: Sequence[Expr]) -> Read:
    buffer = buffer_at(name, pointers[0], extents, pointer_types(type_)[0])

    def read(*index: Expr) -> Expr:
        value = load(buffer, index, type_.dtype)
        if type_.codec == "bf16":
            return decode_bf16(value)
        if type_.codec == "f16":
            return T.Cast("float32", value)
        return T.Cast("int32", value) if type_.codec == "i64" else value

    return read


def _read_fp8(name: str, extents: Sequence[Expr], pointers: Sequence[Expr]) -> Read:
    *lead, n, k = extents
    block = codecs.FP8_BLOCK
    codes = buffer_at(name, pointers[0], extents, "uint8")
    grid = (*lead, -(-n // block), -(-k // block))
    scales = buffer_at(f"{name}_scales", pointers[1], grid, "uint8")

    def read(*index: Expr) -> Expr:
        *stack, row, column = index
        return decode_e4m3(codes[index]) * decode_e8m0(
            scales[(*stack, row // block, column // block)])

    return read


def _read_groups(name: str, codec: str, extents: Sequence[Expr],
                 pointers: Sequence[Expr]) -> Read:
    *lead, k = extents
    form, (decode, decode_scale) = CODECS[codec], GROUPS[codec]
    group = form.block[1]
    codes = buffer_at(name, pointers[0], (*lead, k // form.dense), form.codes)
    scales = buffer_at(f"{name}_scales", pointers[1], (*lead, k // group), form.scales)

    def read(*index: Expr) -> Expr:
        *row, column = index
        code = T.Cast("int32", codes[(*row, column // form.dense)])
        if form.dense == 2:
            code = T.bitwise_and(T.shift_right(code, column % 2 * 4), T.int32(15))
        return decode(code) * decode_scale(scales[(*row, column // group)])

    return read


def decode_e4m3(code: Expr) -> Expr:
    """Value of an e4m3fn code: (8 + m) 2^(e-10), or m 2^-9 where e = 0; 0x7F and 0xFF are NaN."""
    code = T.Cast("int32", code)
    exponent, fraction = T.bitwise_and(code >> 3, T.int32(15)), T.bitwise_and(code, T.int32(7))
    whole = T.Select(exponent > 0, fraction + 8, fraction)
    size = T.Cast("float32", whole) * power_of_two(T.max(exponent, T.int32(1)) - 10)
    size = T.Select(T.EQ(T.bitwise_and(code, T.int32(127)), T.int32(127)),
                    T.float32(float("nan")), size)
    return T.Select(code > 127, -size, size)


def decode_e2m1(code: Expr) -> Expr:
    """Value of the low four bits: (2 + m) 2^(e-2), or m / 2 where e = 0."""
    exponent, fraction = T.bitwise_and(code >> 1, T.int32(3)), T.bitwise_and(code, T.int32(1))
    whole = T.Select(exponent > 0, T.shift_left(fraction + 2, T.max(exponent - 1, T.int32(0))),
                     fraction)
    size = T.Cast("float32", whole) * T.float32(0.5)
    return T.Select(T.bitwise_and(code, T.int32(8)) > 0, -size, size)


def decode_bf16(code: Expr) -> Expr:
    """Value of a bf16 code."""
    return T.reinterpret("float32", T.shift_left(T.Cast("uint32", code), T.uint32(16)))


def decode_integer(bits: int) -> Callable[[Expr], Expr]:
    """The decoder of a code that is an integer in two's complement of so many bits."""
    def decode(code: Expr) -> Expr:
        sign = T.int32(1 << (bits - 1))
        return T.Cast("float32", T.bitwise_xor(code, sign) - sign)

    return decode


def decode_e8m0(code: Expr) -> Expr:
    """2^(code - 127); code 0 is the subnormal 2^-127, 255 is NaN."""
    code = T.Cast("int32", code)
    pattern = T.Select(code > 0, T.shift_left(code, T.int32(23)), T.int32(1 << 22))
    return T.Select(code < 255, T.reinterpret("float32", pattern), T.float32(float("nan")))


GROUPS = {
    GROUP_FP4: (decode_e2m1, decode_e8m0),
    MXFP8: (decode_e4m3, decode_e8m0),
    GROUP_INT8: (decode_integer(8), decode_bf16),
    GROUP_INT4: (decode_integer(4), decode_bf16),
}
"""How codecs of groups decode a code, and a scale."""
