"""Random weights of any codec: packed for the vector kernels, and as float64."""

from dataclasses import dataclass

import numpy as np

from firstlight.ir.codecs import GROUPED, decode_weight
from firstlight.ir.types import CODECS as FORMATS
from firstlight.targets.cpu.kernels.layouts import PLAIN, pack
from support.kernel_call import aligned

FP4, FP8 = "fp4e2m1/32:ue8m0", "fp8e4m3/128x128:ue8m0"
INT8, INT4 = "int8/32:bf16", "int4/32:bf16"
CODECS = (FP4, FP8, INT8, INT4, "bf16", "f16", "f32")


@dataclass(frozen=True)
class PackedWeight:
    """`pointers`: packed codes, and packed scales if the codec has them. `value`: float64."""

    codec: str
    pointers: list[np.ndarray]
    value: np.ndarray
    codes: np.ndarray
    scales: np.ndarray | None


def random_weight(
    rng: np.random.Generator, codec: str, shape: tuple[int, ...], layout: str = PLAIN,
    exponents: tuple[int, int] = (116, 124),
) -> PackedWeight:  # fmt: skip
    """A weight [.., N, K] of random codes (all of them, subnormals too) and scale exponents."""
    codes, scales = _stored(rng, codec, shape, exponents)
    value = _decode(codes, scales, codec)
    packed = pack(layout, codes, scales, codec, shape)
    pointers = [aligned(p) for p in packed if p is not None]
    return PackedWeight(codec, pointers, value[..., : shape[-1]].astype(np.float64), codes, scales)


def _stored(rng, codec, shape, exponents):
    *lead, n, k = shape
    if codec in GROUPED:
        codes = rng.integers(0, 256, (*lead, n, k // FORMATS[codec].dense), np.uint8)
        scales = rng.integers(*exponents, (*lead, n, -(-k // 32)), np.uint8)
        if codec == FP4:
            return codes, scales
        signs = rng.choice(np.array([0, 0x8000], np.uint16), scales.shape)
        return codes, (scales.astype(np.uint16) << 7) | signs
    if codec == FP8:
        codes = rng.integers(0, 256, shape, np.uint8)
        codes[codes & 0x7F == 0x7F] = 0x81  # no NaN, one subnormal more
        return codes, rng.integers(*exponents, (*lead, -(-n // 128), -(-k // 128)), np.uint8)
    values = rng.standard_normal(shape, np.float32)
    if codec == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16), None
    return (values.astype(np.float16).view(np.uint16) if codec == "f16" else values), None


def _decode(codes, scales, codec):
    """`decode_weight` wants whole groups: fill up the last one."""
    if codec not in GROUPED:
        return decode_weight(codes, scales, codec)
    fill = scales.shape[-1] * 32 // FORMATS[codec].dense - codes.shape[-1]
    padded = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, fill)])
    return decode_weight(padded, scales, codec)
