"""What kernels are fed: ordinary numbers, and those that hurt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.ir import codecs, rows
from firstlight.ir.types import BLOCK_FP8, CODECS, TensorType

Array = NDArray[Any]
Random = np.random.Generator
Change = Callable[[Random, Array], Array]
Make = Callable[[Random, tuple[int, ...]], Array]

DTYPES = {"f32": np.float32, "i32": np.int32, "bool": np.bool_}
CODES = {"f32": np.float32, "bf16": np.uint16, "f16": np.float16, "i64": np.int64}
SCALES = (122, 131)
"""Exponents (2^-5 .. 2^3) that scales of neighbours are drawn from, so that they differ."""


def plain(random: Random, x: Array) -> Array:
    """As it comes."""
    return x


def zero_rows(random: Random, x: Array) -> Array:
    """Nothing at all."""
    return np.zeros_like(x)


def outliers(random: Random, x: Array) -> Array:
    """One value of 1e4 (in the first operand only: two of them cancel, in any arithmetic)."""
    x = x.copy()
    x.reshape(-1)[random.integers(0, x.size)] = 1e4
    return x


def ties(random: Random, x: Array) -> Array:
    """Few different values, all exact in any order of summation."""
    return np.round(x)


def tiny(random: Random, x: Array) -> Array:
    """So small that an epsilon decides."""
    return x * np.float32(1e-3)


def positive(random: Random, shape: tuple[int, ...]) -> Array:
    """From about 1e-4 to 1e4."""
    return np.exp(random.normal(0, 3, shape)).astype(np.float32)


def balanced(random: Random, shape: tuple[int, ...]) -> Array:
    """Weights of many columns, whose products are of the size of what they multiply."""
    return (random.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)


def extreme(random: Random, shape: tuple[int, ...]) -> Array:
    """Minus infinity, large and tiny numbers among ordinary ones."""
    x = random.standard_normal(shape).astype(np.float32).reshape(-1)
    special = (-np.inf, 1e4, -1e4, 0, -0.0, 88, -104, 1e-30)
    x[: len(special)] = special[: x.size]
    return x.reshape(shape)


def wide(random: Random, shape: tuple[int, ...]) -> Array:
    """Of all magnitudes."""
    sizes = np.exp2(random.integers(-140, 40, shape))
    return (random.standard_normal(shape) * sizes).astype(np.float32)


def angles(random: Random, shape: tuple[int, ...]) -> Array:
    """Some thousands of radians."""
    return (random.standard_normal(shape) * 3e3).astype(np.float32)


def masked(random: Random, shape: tuple[int, ...]) -> Array:
    """Few values, some of them minus infinity; the first row is nothing else."""
    x = np.round(random.standard_normal(shape).astype(np.float32) * 2)
    x[random.random(shape) < 0.3] = -np.inf
    x.reshape(-1, shape[-1])[0] = -np.inf
    return x


def integers(low: int, high: int) -> Make:
    """Whole numbers from low to high - 1."""
    return lambda random, shape: random.integers(low, high, shape).astype(np.int32)


def constant(value: float) -> Make:
    """One number everywhere."""
    return lambda random, shape: np.full(shape, value, np.float32)


@dataclass(frozen=True)
class Operand:
    """The array a reference sees, and the stored codes and scales if it is a weight."""

    value: Array
    codes: Array | None = None
    scales: Array | None = None

    @property
    def stored(self) -> tuple[Array, ...]:
        """What is in memory where no layout is asked for: codes and scales, or the value."""
        return tuple(a for a in (self.value if self.codes is None else self.codes, self.scales)
                     if a is not None)


def state(value: Array, codec: str) -> Operand:
    """`value` as a state of this codec holds it, and its bytes."""
    if codec == "f32":
        return Operand(value)
    raw = rows.encode(value, codec)
    return Operand(rows.decode(raw, value.shape[-1], codec), raw)


def stored(random: Random, value: Array, type_: TensorType) -> Operand:
    """`value` in the type's codec; the reference sees what the codes mean.

    Quantised weights are random codes with random scales instead, all codes but NaN among them:
    rounding ordinary numbers would give every group the same scale. Zeros stay zeros.
    """
    if not type_.codec:
        return Operand(value.astype(DTYPES[type_.dtype]))
    if type_.dtype == "i32":
        return Operand(value.astype(np.int32), value.astype(CODES[type_.codec]))
    if not CODECS[type_.codec].scales:
        codes, _ = codecs.encode_weight(value, type_.codec)
        return Operand(codecs.decode_weight(codes, None, type_.codec), codes)
    codes, scales = _quantised(random, value.shape, type_.codec)
    if not value.any():
        codes = np.zeros_like(codes)
    return Operand(decoded(codes, scales, type_.codec), codes, scales)


def _quantised(random: Random, shape: tuple[int, ...], codec: str) -> tuple[Array, Array]:
    form = CODECS[codec]
    codes = random.integers(0, 256, (*shape[:-1], shape[-1] // form.dense), np.uint8)
    grid = form.grid(shape)
    if form.scales == "uint16":
        signs = random.choice(np.array([-1, 1], np.float32), grid)
        return codes, codecs.encode_bf16(signs * np.exp2(random.uniform(-5, 3, grid)))
    if codec == BLOCK_FP8:
        codes[codes & 0x7F == 0x7F] = 0x81               # no NaN, one subnormal more
        return codes, random.integers(SCALES[0] - 8, SCALES[1] - 8, grid, np.uint8)
    return codes, random.integers(*SCALES, grid, np.uint8)


def decoded(codes: Array, scales: Array, codec: str) -> Array:
    """What the codes of a matrix, or of stacked ones, mean."""
    matrices = [codecs.decode_weight(c, s, codec) for c, s in zip(
        codes.reshape(-1, *codes.shape[-2:]), scales.reshape(-1, *scales.shape[-2:]), strict=True)]
    return np.stack(matrices).reshape(*codes.shape[:-2], *matrices[0].shape)
