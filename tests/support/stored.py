"""The stored number formats of a DeepSeek-V4 checkpoint, written a second time for the tests.

Deliberately independent of `firstlight.frontend` and `firstlight.ir`: a mistake there must not be
able to hide behind the same mistake here. Formats: specification sections 3.1 and 3.2.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

FP8_BLOCK = 128
FP4_GROUP = 32


class Stored(NamedTuple):
    """One tensor as a safetensors file holds it: dtype tag and codes.

    `data` is float32 (F32), float16 (F16), uint16 (BF16), uint8 (F8_E4M3, F8_E8M0),
    int8 (I8: two FP4 codes a byte) or int64 (I64); its shape is the stored shape.
    """

    dtype: str
    data: np.ndarray


def _e4m3_values() -> np.ndarray:
    code = np.arange(256)
    sign, exponent, mantissa = 1 - 2 * (code >> 7), (code >> 3) & 15, code & 7
    subnormal = np.ldexp(mantissa.astype(np.float32), -9)
    normal = np.ldexp((8 + mantissa).astype(np.float32), exponent - 10)
    values = sign * np.where(exponent == 0, subnormal, normal)
    values[[0x7F, 0xFF]] = np.nan
    return values.astype(np.float32)


E4M3 = _e4m3_values()
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def _nearest(magnitude: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the entry of ascending `values` next to each magnitude (uint8)."""
    return np.searchsorted((values[1:] + values[:-1]) / 2, magnitude).astype(np.uint8)


def _power_of_two_at_least(x: np.ndarray) -> np.ndarray:
    """The smallest integer e with 2^e >= x, read from the float's bits."""
    mantissa, exponent = np.frexp(x)
    return exponent - (mantissa == 0.5)


def _spread(scale: np.ndarray, rows: int, cols: int) -> np.ndarray:
    return scale.repeat(FP8_BLOCK, 0)[:rows].repeat(FP8_BLOCK, 1)[:, :cols]


def store_fp8(w: np.ndarray) -> tuple[Stored, Stored]:
    """E4M3 codes of `w` [out, in] and the E8M0 scales of its 128 x 128 blocks, ceil grid."""
    rows, cols = w.shape
    padded = np.pad(np.abs(w), ((0, -rows % FP8_BLOCK), (0, -cols % FP8_BLOCK)))
    blocks = padded.reshape(padded.shape[0] // FP8_BLOCK, FP8_BLOCK, -1, FP8_BLOCK)
    amax = np.maximum(blocks.max((1, 3)), np.float32(2.0**-100))
    exponent = _power_of_two_at_least(amax / 448)
    x = np.ldexp(w, -_spread(exponent, rows, cols))
    codes = _nearest(np.abs(x), E4M3[:0x7F]) | (np.signbit(x).astype(np.uint8) << 7)
    return Stored("F8_E4M3", codes), Stored("F8_E8M0", (exponent + 127).astype(np.uint8))


def store_fp4(w: np.ndarray) -> tuple[Stored, Stored]:
    """Packed E2M1 codes of `w` [out, in], low nibble first, and E8M0 scales of 32-groups."""
    groups = w.reshape(w.shape[0], -1, FP4_GROUP)
    amax = np.maximum(np.abs(groups).max(-1), np.float32(2.0**-100))
    exponent = _power_of_two_at_least(amax / 6)
    x = np.ldexp(groups, -exponent[..., None]).reshape(w.shape)
    codes = _nearest(np.abs(x), E2M1) | (np.signbit(x).astype(np.uint8) << 3)
    packed = (codes[:, 0::2] | (codes[:, 1::2] << 4)).view(np.int8)
    return Stored("I8", packed), Stored("F8_E8M0", (exponent + 127).astype(np.uint8))


def store_bf16(w: np.ndarray) -> Stored:
    """Nearest bfloat16, ties to even, as uint16 codes."""
    bits = np.ascontiguousarray(w, np.float32).view(np.uint32)
    return Stored("BF16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))


def _decode(stored: Stored, scale: np.ndarray | None) -> np.ndarray:
    dtype, data = stored
    if dtype == "BF16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E4M3":
        assert scale is not None
        return E4M3[data] * _spread(scale, *data.shape)
    if dtype == "I8":
        assert scale is not None
        codes = data.view(np.uint8)
        both = np.stack((codes & 15, codes >> 4), -1).reshape(data.shape[0], -1)
        values = np.concatenate((E2M1, -E2M1))[both]
        return values * scale.repeat(FP4_GROUP, 1)
    return data if dtype == "I64" else data.astype(np.float32)


def dequantise(tensors: Mapping[str, Stored]) -> dict[str, np.ndarray]:
    """Released names to float32 (or int64) values; exact, the `.scale` tensors are used up."""
    values = {}
    for name, stored in tensors.items():
        if name.endswith(".scale"):
            continue
        scale = tensors.get(name.removesuffix("weight") + "scale")
        factor = None if scale is None else np.exp2(scale.data.astype(np.float32) - 127)
        values[name] = _decode(stored, factor)
    return values


def digest(tensors: Mapping[str, Stored]) -> str:
    """sha256 over names, dtypes, shapes and codes, in name order."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        dtype, data = tensors[name]
        sha.update(f"{name} {dtype} {data.shape}\n".encode())
        sha.update(np.ascontiguousarray(data).tobytes())
    return sha.hexdigest()
