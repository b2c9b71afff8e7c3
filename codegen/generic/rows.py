"""Rows of states in their codecs (`firstlight.ir.rows`), byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from firstlight.codegen.generic.emitter import Emitter
from firstlight.codegen.generic.recipe import Expr, Reduction, State, Tensor
from firstlight.codegen.generic.rounding import FORMATS, block_scales, hadamard_of, nearest_bf16
from firstlight.codegen.generic.scalars import exponent_of, power_of_two
from firstlight.codegen.generic.storage import decode_bf16, decode_e2m1, decode_e4m3, decode_e8m0
from firstlight.codegen.tvm_bridge import T
from firstlight.ir.types import StateType, row_codec


@dataclass(frozen=True)
class Part:
    """Elements `offset` .. `offset + count - 1` of a row in memory: bytes, or the columns of f32.

    value(index of the row, i) is the i-th of them.
    """

    offset: int
    count: int
    value: Callable[[Sequence[Expr], Expr], Expr]


def row_parts(e: Emitter, state: StateType, x: Tensor) -> list[Part]:
    """What rows x [.., width] are written as; sums and scales they need are placed in buffers."""
    form, width = row_codec(state.codec), state.width
    if form.codes == "f32":
        return [Part(0, width, lambda row, i: x.read(*row, i))]
    codes, tail, scales = form.parts(width)
    if form.rotated:
        x = e.place("hadamard", hadamard_of(x))
    if form.codes == "bf16":
        return [Part(0, codes, lambda row, i: _half(x.read(*row, i // 2), i))]
    rounding = f"round_{form.codes}"
    top, _, mantissa, bias = FORMATS[rounding]
    kept = width - form.tail
    scale = block_scales(e, rounding, x, form.group, kept)

    def code(row: Sequence[Expr], column: Expr) -> Expr:
        y = x.read(*row, column) * power_of_two(-scale.read(*row, column // form.group))
        return _code(T.max(T.min(y, T.float32(top)), T.float32(-top)), mantissa, bias)

    def pair(row: Sequence[Expr], i: Expr) -> Expr:
        high = T.shift_left(code(row, 2 * i + 1), T.int32(4))
        return T.Cast("uint8", T.bitwise_or(code(row, 2 * i), high))

    plain = form.codes == "e4m3"
    return [
        Part(0, codes, (lambda row, i: T.Cast("uint8", code(row, i))) if plain else pair),
        Part(codes, tail, lambda row, i: _half(x.read(*row, kept + i // 2), i)),
        Part(codes + tail, scales,
             lambda row, i: T.Cast("uint8", scale.read(*row, i) + T.int32(127))),
    ]


def read_row(state: State, slot: Expr, row: Expr, column: Expr) -> Expr:
    """A value as the state holds it."""
    form = row_codec(state.type.codec)
    if form.codes == "f32":
        return state.buffer[slot, row, column]
    codes, tail, _ = form.parts(state.type.width)

    def byte(at: Expr) -> Expr:
        return state.buffer[slot, row, at]

    def half(at: Expr) -> Expr:
        low, high = (T.Cast("uint32", byte(at + i)) for i in (0, 1))
        return decode_bf16(T.bitwise_or(low, T.shift_left(high, T.uint32(8))))

    if form.codes == "bf16":
        return half(2 * column)
    scale = decode_e8m0(byte(codes + tail + column // form.group))
    if form.codes == "e2m1":
        both = T.Cast("int32", byte(column // 2))
        nibble = T.bitwise_and(T.shift_right(both, column % 2 * 4), T.int32(15))
        return decode_e2m1(nibble) * scale
    value = decode_e4m3(byte(column)) * scale
    kept = state.type.width - form.tail
    if not form.tail:
        return value
    return T.if_then_else(column < kept, value, half(codes + 2 * (column - kept)))


def recalled(state: StateType, rows: Tensor) -> Tensor | Reduction:
    """What is read from rows that a state holds."""
    return hadamard_of(rows) if row_codec(state.codec).rotated else rows


def _half(value: Expr, i: Expr) -> Expr:
    """Byte i % 2 of the nearest bf16, the low one first."""
    word = T.shift_right(T.reinterpret("uint32", nearest_bf16(value)), T.uint32(16))
    return T.Cast("uint8", T.shift_right(word, T.Cast("uint32", i % 2 * 8)))


def _code(y: Expr, mantissa: int, bias: int) -> Expr:
    """The nearest code, ties to even, of a value within the format; see `ir.codecs`."""
    exponent = T.max(exponent_of(y), T.int32(1 - bias))
    steps = T.Cast("int32", T.nearbyint(T.abs(y) * power_of_two(mantissa - exponent)))
    size = T.shift_left(exponent + (bias - 1), T.int32(mantissa)) + steps
    sign = T.shift_right(T.reinterpret("uint32", y), T.uint32(31))
    return size + T.shift_left(T.Cast("int32", sign), T.int32(3 if mantissa == 1 else 7))
