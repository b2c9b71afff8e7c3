"""Rows of states in their codecs (`ir.types.RowCodec`), in numpy: what kernels are held against.

Three forms of a row: the values that an op writes or reads [.., width]; the same as the state holds
them, transformed if the codec says so and rounded (what references keep); the bytes [.., row_bytes]
in the memory of an artifact. Bytes lie in the order codes, bf16 tail, scales, zeros:

    512 columns, 64 of them rope   448 e4m3 | 64 bf16 | 7 ue8m0 | 1          (spec 6.5)
    128 columns of an index key    64 (even column in the low nibble) | 4 ue8m0
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import codecs
from firstlight.ir.types import row_codec

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]
_ROUND = {"bf16": lambda x, _: codecs.round_bf16(x), "e4m3": codecs.round_e4m3,
          "e2m1": codecs.round_e2m1}
_LIMITS = {"e4m3": (codecs.E4M3_MAX, codecs.E4M3_FLOOR),
           "e2m1": (codecs.E2M1_MAX, codecs.E2M1_FLOOR)}


def held(x: F32, codec: str) -> F32:
    """Values [.., width] as a state holds them."""
    form = row_codec(codec)
    return rounded(codecs.hadamard(x) if form.rotated else x, codec)


def recalled(rows: F32, codec: str) -> F32:
    """What is read from rows that a state holds."""
    return codecs.hadamard(rows) if row_codec(codec).rotated else rows


def rounded(x: F32, codec: str) -> F32:
    """x [.., width] with the values that the codes can express."""
    form = row_codec(codec)
    if form.codes == "f32":
        return x
    kept = x.shape[-1] - form.tail
    some = _ROUND[form.codes](x[..., :kept], form.group)
    return np.concatenate([some, codecs.round_bf16(x[..., kept:])], -1)


def encode(x: F32, codec: str) -> U8:
    """The bytes [.., row_bytes] of rows that a state holds (others are rounded)."""
    form, lead = row_codec(codec), x.shape[:-1]
    kept = x.shape[-1] - form.tail
    x = np.ascontiguousarray(x, np.float32)
    parts = []
    if form.group:
        y, scale = codecs.scaled_blocks(x[..., :kept], form.group, *_LIMITS[form.codes])
        y = y.reshape(*lead, y.shape[-2] * form.group)[..., :kept]
        parts = [codecs.encode_e4m3(y) if form.codes == "e4m3" else codecs.encode_e2m1(y),
                 _bytes(codecs.encode_bf16(x[..., kept:])), (scale[..., 0] + 127).astype(np.uint8)]
    else:
        parts = [_bytes(codecs.encode_bf16(x) if form.codes == "bf16" else x)]
    used = sum(part.shape[-1] for part in parts)
    pad = np.zeros((*lead, form.nbytes(x.shape[-1]) - used), np.uint8)
    return np.concatenate([*parts, pad], -1)


def decode(raw: U8, width: int, codec: str) -> F32:
    """Rows [.., width] as the state holds them, from their bytes."""
    form, lead = row_codec(codec), raw.shape[:-1]
    codes, tail, scales = np.cumsum(form.parts(width))
    first = np.ascontiguousarray(raw[..., :codes])
    if not form.group:
        return first.view(np.float32) if form.codes == "f32" else codecs.decode_bf16(
            first.view(np.uint16))
    values = codecs.decode_e4m3(first) if form.codes == "e4m3" else codecs.decode_e2m1(first)
    unit = codecs.decode_e8m0(raw[..., tail:scales]).repeat(form.group, -1)
    last = np.ascontiguousarray(raw[..., codes:tail]).view(np.uint16).reshape(*lead, form.tail)
    return np.concatenate([values * unit[..., :values.shape[-1]], codecs.decode_bf16(last)], -1)


def _bytes(x: NDArray[np.generic]) -> U8:
    flat = np.ascontiguousarray(x)
    return flat.view(np.uint8).reshape(*x.shape[:-1], x.shape[-1] * x.itemsize)
