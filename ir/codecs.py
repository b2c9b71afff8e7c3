"""Number formats of the weights, and the roundings of the released numerics, in numpy.

Formats: specification section 3.2. Roundings: section 7. Everything works on float32 values;
codes are uint8 (uint16 for bf16). This is the meaning the kernels are held against.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, GROUP_INT4, GROUP_INT8

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]

FP8_BLOCK = 128                   # rows and columns that share one scale
FP4_GROUP = 32                    # columns that share one scale, also of int8 and int4
E4M3_MAX = 448.0
E2M1_MAX = 6.0


def _small_float_table(mantissa: int, bias: int, magnitudes: int) -> F32:
    """Values of the codes of a sign-exponent-mantissa format without infinities."""
    code = np.arange(magnitudes)
    exponent, fraction = code >> mantissa, code & ((1 << mantissa) - 1)
    whole = np.where(exponent > 0, (1 << mantissa) + fraction, fraction)
    value = np.ldexp(whole.astype(np.float32), np.maximum(exponent, 1) - bias - mantissa)
    return np.concatenate([value, -value]).astype(np.float32)


E4M3 = _small_float_table(3, 7, 128)
E4M3[[0x7F, 0xFF]] = np.nan
E2M1 = _small_float_table(1, 1, 8)
E8M0 = np.ldexp(np.float32(1), np.minimum(np.arange(256), 254) - 127).astype(np.float32)
E8M0[255] = np.nan
_E2M1_PAIRS = np.stack([E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4]], axis=-1)
for _table in (E4M3, E2M1, E8M0, _E2M1_PAIRS):
    _table.setflags(write=False)


def decode_e4m3(codes: U8) -> F32:
    """Values of e4m3fn codes, same shape; 0x7F and 0xFF are NaN."""
    values: F32 = E4M3[codes]
    return values


def decode_e8m0(codes: U8) -> F32:
    """2^(code - 127), same shape; 255 is NaN."""
    values: F32 = E8M0[codes]
    return values


def decode_e2m1(packed: U8) -> F32:
    """Values of packed fp4, [..., K/2] -> [..., K]: the low nibble is the even column."""
    pairs: F32 = _E2M1_PAIRS[packed]
    return pairs.reshape(*packed.shape[:-1], 2 * packed.shape[-1])


def decode_int4(packed: U8) -> F32:
    """Values -8 .. 7 of packed two's complement, [..., K/2] -> [..., K], low nibble first."""
    pairs = np.stack([packed << np.uint8(4), packed], axis=-1).view(np.int8) >> np.int8(4)
    return pairs.reshape(*packed.shape[:-1], -1).astype(np.float32)


def encode_int4(x: ArrayLike) -> U8:
    """Nearest packed codes, ties to even, saturating: [..., K] -> [..., K/2]."""
    codes = np.clip(np.rint(np.asarray(x, np.float32)), -8, 7).astype(np.int8).view(np.uint8)
    return (codes[..., 0::2] & np.uint8(15)) | (codes[..., 1::2] << np.uint8(4))


def decode_int8(codes: U8) -> F32:
    """Values -128 .. 127 of two's complement bytes, same shape."""
    return codes.view(np.int8).astype(np.float32)


def encode_int8(x: ArrayLike) -> U8:
    """Nearest codes, ties to even, saturating at +-127, same shape."""
    return np.clip(np.rint(np.asarray(x, np.float32)), -127, 127).astype(np.int8).view(np.uint8)


def decode_bf16(codes: NDArray[np.uint16]) -> F32:
    """Values of bf16 codes, same shape."""
    return (codes.astype(np.uint32) << np.uint32(16)).view(np.float32)


def decode_f16(codes: NDArray[Any]) -> F32:
    """Values of f16, given as float16 or as uint16 codes."""
    halves: NDArray[np.float16] = codes.view(np.float16)
    return halves.astype(np.float32)


def encode_e4m3(x: ArrayLike) -> U8:
    """Nearest e4m3fn codes, ties to even; beyond 464, and for NaN and infinity, the NaN code."""
    return _encode(np.asarray(x, np.float32), 3, 7, top=0x7F, nan=0x7F)


def encode_e2m1(x: ArrayLike) -> U8:
    """Nearest packed fp4 codes, ties to even, saturating: [..., K] -> [..., K/2]."""
    codes = _encode(np.asarray(x, np.float32), 1, 1, top=7, nan=7)
    return codes[..., 0::2] | (codes[..., 1::2] << np.uint8(4))


def encode_e8m0(x: ArrayLike) -> U8:
    """Codes of positive scales; what is no power of two goes up to the next one."""
    codes: U8 = np.clip(ceil_log2(np.asarray(x, np.float32)) + 127, 0, 254).astype(np.uint8)
    return codes


def encode_bf16(x: ArrayLike) -> NDArray[np.uint16]:
    """Nearest bf16 codes, ties to even."""
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> 16 & 1)
    return (np.where(np.isnan(x), bits | 1 << 22, rounded) >> 16).astype(np.uint16)


def encode_f16(x: ArrayLike) -> NDArray[np.float16]:
    """Nearest f16, ties to even."""
    return np.asarray(x, np.float32).astype(np.float16)


def _encode(x: F32, mantissa: int, bias: int, top: int, nan: int) -> U8:
    """Nearest codes, ties to even; magnitudes past the last code become `top`."""
    size = np.abs(x)
    exponent = np.where(size > 0, np.frexp(size)[1] - 1, 1 - bias)
    exponent = np.maximum(exponent, 1 - bias)                  # below: subnormals
    steps = np.rint(np.ldexp(size, mantissa - exponent))       # exact, then one rounding
    steps = np.where(np.isfinite(steps), steps, 0).astype(np.int32)
    # A carry out of the mantissa lands in the exponent, and subnormals need no case of their own.
    code = ((exponent + bias - 1) << mantissa) + steps
    code = np.where(np.isfinite(x), np.minimum(code, top), nan)
    signed: U8 = (code | np.signbit(x).astype(np.int32) << (3 if top == 7 else 7)).astype(np.uint8)
    return signed


def _nearest_whole(low: int, high: int, x: F32) -> F32:
    np.clip(np.rint(x, out=x), low, high, out=x)
    return x


def _nearest_e2m1(x: F32) -> F32:
    """Steps of 0.5 below 2, of 1 below 4, of 2 up to 6: what is a tie, is one of codes, too."""
    np.clip(x, -E2M1_MAX, E2M1_MAX, out=x)
    size = np.abs(x)
    step = np.float32(0.5) * (1 + (size >= 2) + 2 * (size >= 4)).astype(np.float32)
    np.rint(np.divide(x, step, out=x), out=x)
    x *= step
    return x


@dataclass(frozen=True)
class Grouped:
    """The number formats of a codec whose groups of columns share a scale.

    `nearest` is ``decode(encode(x))``, in the place of x. `top` is the magnitude that the largest
    value of a group becomes, without a search.
    """

    decode: Callable[[U8], F32]
    encode: Callable[[F32], U8]
    nearest: Callable[[F32], F32]
    top: float
    decode_scale: Callable[[NDArray[Any]], F32]
    encode_scale: Callable[[F32], NDArray[Any]]


GROUPED = {
    GROUP_FP4: Grouped(decode_e2m1, encode_e2m1, _nearest_e2m1, E2M1_MAX, decode_e8m0,
                       encode_e8m0),
    GROUP_INT8: Grouped(decode_int8, encode_int8, partial(_nearest_whole, -127, 127), 127.0,
                        decode_bf16, encode_bf16),
    GROUP_INT4: Grouped(decode_int4, encode_int4, partial(_nearest_whole, -8, 7), 7.0,
                        decode_bf16, encode_bf16),
}


def decode_weight(codes: NDArray[Any], scales: NDArray[Any] | None, codec: str,
                  first_row: int = 0) -> F32:
    """The logical float32 matrix of stored codes [..., N, K] (fp4 and int4: [..., N, K/2]).

    `scales` [..., ceil(N/128), ceil(K/128)] for fp8, [..., N, K/32] for groups. With fp8, `codes`
    may be rows from `first_row` on; `scales` then still begins at row 0 of the matrix.
    """
    if codec == BLOCK_FP8:
        assert scales is not None
        rows = (first_row + np.arange(codes.shape[-2])) // FP8_BLOCK
        columns = np.arange(codes.shape[-1]) // FP8_BLOCK
        return decode_e4m3(codes) * decode_e8m0(scales)[..., rows, :][..., columns]
    if codec in GROUPED:
        assert scales is not None
        form = GROUPED[codec]
        values = form.decode(codes).reshape(*scales.shape, FP4_GROUP)
        values *= form.decode_scale(scales)[..., None]
        return values.reshape(*codes.shape[:-1], -1)
    if codec == "bf16":
        return decode_bf16(codes)
    if codec == "f16":
        return decode_f16(codes)
    if codec == "f32":
        return codes.astype(np.float32, copy=False)
    raise ValueError(f"unknown codec {codec}")


def encode_weight(w: ArrayLike, codec: str) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Codes and scales of a float32 matrix [N, K], as `decode_weight` takes them.

    Scales are the smallest that clip nothing; `firstlight.ir.scales` searches for better ones.
    """
    w = np.asarray(w, np.float32)
    if codec == BLOCK_FP8:
        n, k = w.shape
        blocks = np.pad(w, ((0, -n % FP8_BLOCK), (0, -k % FP8_BLOCK)))
        blocks = blocks.reshape(-(-n // FP8_BLOCK), FP8_BLOCK, -1, FP8_BLOCK)
        top: F32 = np.maximum(np.abs(blocks).max((1, 3)), np.float32(1e-30))
        scales = encode_e8m0(top / np.float32(E4M3_MAX))
        unit = decode_e8m0(scales).repeat(FP8_BLOCK, 0)[:n].repeat(FP8_BLOCK, 1)[:, :k]
        return encode_e4m3(w / unit), scales
    if codec in GROUPED:
        form, groups = GROUPED[codec], w.reshape(w.shape[0], -1, FP4_GROUP)
        largest: F32 = np.maximum(np.abs(groups).max(-1), np.float32(1e-30))
        scales = form.encode_scale(largest / np.float32(form.top))
        unit = form.decode_scale(scales)[..., None]
        steps: F32 = np.divide(groups, unit).reshape(w.shape)
        return form.encode(steps), scales
    if codec == "bf16":
        return encode_bf16(w), None
    if codec == "f16":
        return encode_f16(w), None
    if codec == "f32":
        return w, None
    raise ValueError(f"unknown codec {codec}")


def ceil_log2(x: F32) -> NDArray[np.int32]:
    """Smallest e with 2^e >= x, for positive x, from the float's own bits (spec 7)."""
    fraction, exponent = np.frexp(x)
    least: NDArray[np.int32] = exponent - (fraction == 0.5).astype(np.int32)
    return least


def _in_blocks(x: F32, block: int) -> F32:
    """x [..., n] as [..., ceil(n/block), block], the last block filled up with zeros."""
    fill = -x.shape[-1] % block
    if fill:
        x = np.concatenate([x, np.zeros((*x.shape[:-1], fill), np.float32)], -1)
    return x.reshape(*x.shape[:-1], x.shape[-1] // block, block)


E4M3_FLOOR = 1e-4
E2M1_FLOOR = 6 * 2.0**-126
"""A block whose largest value is smaller gets the scale of this one (spec 7)."""


def scaled_blocks(x: F32, block: int, top: float, floor: float) -> tuple[F32, NDArray[np.int32]]:
    """x [..., n] in blocks, within +-top, and the exponents of their scales [..., blocks, 1]."""
    blocks = _in_blocks(x, block)
    amax = np.maximum(np.abs(blocks).max(-1, keepdims=True), np.float32(floor))
    scale = ceil_log2(amax / np.float32(top))
    return np.clip(np.ldexp(blocks, -scale), -np.float32(top), np.float32(top)), scale


def _round_in_blocks(x: ArrayLike, block: int, top: float, floor: float, mantissa: int,
                     bias: int) -> F32:
    x = np.asarray(x, np.float32)
    y, scale = scaled_blocks(x, block, top, floor)
    exponent = np.maximum(np.frexp(y)[1] - 1, 1 - bias) - mantissa
    y = np.ldexp(np.ldexp(np.rint(np.ldexp(y, -exponent)), exponent), scale)
    flat = y.reshape(*x.shape[:-1], y.shape[-2] * block)
    return np.ascontiguousarray(flat[..., :x.shape[-1]])


def round_e4m3(x: ArrayLike, block: int) -> F32:
    """x [..., n] rounded to e4m3 with one power-of-two scale per `block` last values (spec 7)."""
    return _round_in_blocks(x, block, E4M3_MAX, E4M3_FLOOR, 3, 7)


def round_e2m1(x: ArrayLike, block: int = FP4_GROUP) -> F32:
    """x [..., n] rounded to fp4 with one power-of-two scale per `block` last values (spec 7)."""
    return _round_in_blocks(x, block, E2M1_MAX, E2M1_FLOOR, 1, 1)


def round_bf16(x: ArrayLike) -> F32:
    """x rounded to the nearest bf16, ties to even, still float32."""
    return decode_bf16(encode_bf16(x)).reshape(np.shape(x))


def hadamard(x: ArrayLike) -> F32:
    """Walsh-Hadamard transform of the last axis (a power of two), Sylvester order, n^-1/2 scale."""
    x = np.asarray(x, np.float32)
    n = x.shape[-1]
    if n & (n - 1) or not n:
        raise ValueError(f"the last axis ({n}) is no power of two")
    shape, half = x.shape, 1
    while half < n:
        x = x.reshape(*shape[:-1], n // (2 * half), 2, half)
        x = np.stack([x[..., 0, :] + x[..., 1, :], x[..., 0, :] - x[..., 1, :]], -2)
        half *= 2
    return x.reshape(shape) * np.float32(n**-0.5)
