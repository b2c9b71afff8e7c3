"""Number formats against ml_dtypes over every code, and the released roundings code by code."""

import ml_dtypes
import numpy as np
import pytest

from firstlight.ir import codecs as c
from support import stored

CODES = np.arange(256, dtype=np.uint8)
RNG = np.random.default_rng(5)


def between(values: np.ndarray) -> np.ndarray:
    """All finite values of a format, the ties between them, and the floats beside the ties."""
    v = np.unique(values[np.isfinite(values)])
    ties = (v[1:] + v[:-1]) / 2
    near = [np.nextafter(ties, np.float32(s)) for s in (-np.inf, np.inf)]
    return np.concatenate([v, ties, *near]).astype(np.float32)


@pytest.mark.parametrize(("decode", "dtype"), [
    (c.decode_e4m3, ml_dtypes.float8_e4m3fn), (c.decode_e8m0, ml_dtypes.float8_e8m0fnu)])
def test_every_byte(decode, dtype) -> None:
    np.testing.assert_array_equal(decode(CODES), CODES.view(dtype).astype(np.float32))


def test_every_fp4_byte_low_nibble_first() -> None:
    low = (CODES & 15).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    high = (CODES >> 4).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    got = c.decode_e2m1(CODES.reshape(2, 128))
    assert got.shape == (2, 256)
    np.testing.assert_array_equal(got.reshape(-1, 2), np.stack([low, high], -1))


def test_every_bf16_and_f16() -> None:
    codes = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(c.decode_bf16(codes),
                                  codes.view(ml_dtypes.bfloat16).astype(np.float32))
    np.testing.assert_array_equal(c.decode_f16(codes), codes.view(np.float16).astype(np.float32))


def test_encode_e4m3_on_every_value_and_tie() -> None:
    x = between(c.E4M3)
    x = np.concatenate([x, RNG.normal(size=5000) * 10.0 ** RNG.uniform(-4, 3, 5000),
                        [0.0, -0.0, np.inf, -np.inf, 464, 465, 480, 1e30, 1e-30]])
    x = x.astype(np.float32)
    np.testing.assert_array_equal(c.encode_e4m3(x), x.astype(ml_dtypes.float8_e4m3fn).view("u1"))
    assert np.isnan(c.decode_e4m3(c.encode_e4m3(np.nan)))


def test_encode_e2m1_on_every_value_and_tie() -> None:
    x = np.concatenate([between(c.E2M1), RNG.normal(size=2001) * 3, [7, 1e9, -1e9, 0.0]])
    x = x[: len(x) // 2 * 2].astype(np.float32)
    want = x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(c.decode_e2m1(c.encode_e2m1(x)), want)
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 5], np.float32)     # specification 7
    assert c.decode_e2m1(c.encode_e2m1(ties)).tolist() == [0, 1, 1, 2, 2, 4, 4, 4]


def test_encode_bf16_ties_and_specials() -> None:
    codes = np.arange(0, 0x7F80, 7, dtype=np.uint32)
    ties = (codes << 16 | 0x8000).view(np.float32)
    x = np.concatenate([ties, -ties, RNG.normal(size=3000), [np.inf, -np.inf, 3.4e38, 1e-45, 0]])
    x = x.astype(np.float32)
    np.testing.assert_array_equal(c.encode_bf16(x), x.astype(ml_dtypes.bfloat16).view("u2"))
    assert np.isnan(c.round_bf16(np.float32(np.nan)))
    assert c.round_bf16(np.ones((2, 3))).shape == (2, 3)


def test_scales_go_up_to_a_power_of_two() -> None:
    every = c.decode_e8m0(CODES[:255])
    np.testing.assert_array_equal(c.encode_e8m0(every), CODES[:255])
    above = np.nextafter(every[10:200], np.float32(np.inf))
    np.testing.assert_array_equal(c.encode_e8m0(above), CODES[11:201])


@pytest.mark.parametrize("shape", [(128, 256), (1, 1), (80, 128), (129, 257), (130, 96)])
def test_fp8_blocks_of_any_size(shape) -> None:
    grid = (-(-shape[0] // 128), -(-shape[1] // 128))
    codes = RNG.integers(0, 0x7F, shape, dtype=np.uint8)
    scales = RNG.integers(100, 140, grid, dtype=np.uint8)
    got = c.decode_weight(codes, scales, c.BLOCK_FP8)
    assert got.dtype == np.float32
    for i, j in [(0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, shape[1] // 2)]:
        assert got[i, j] == c.E4M3[codes[i, j]] * 2.0 ** (int(scales[i // 128, j // 128]) - 127)
    rows = slice(shape[0] // 2, shape[0])
    part = c.decode_weight(codes[rows], scales, c.BLOCK_FP8, first_row=rows.start)
    np.testing.assert_array_equal(part, got[rows])


def test_fp4_groups() -> None:
    codes = RNG.integers(0, 256, (3, 5, 48), dtype=np.uint8)
    scales = RNG.integers(100, 140, (3, 5, 3), dtype=np.uint8)
    got = c.decode_weight(codes, scales, c.GROUP_FP4)
    assert got.shape == (3, 5, 96)
    byte = codes[2, 4, 40]
    unit = 2.0 ** (int(scales[2, 4, 2]) - 127)
    assert got[2, 4, 80] == c.E2M1[byte & 15] * unit
    assert got[2, 4, 81] == c.E2M1[byte >> 4] * unit


@pytest.mark.parametrize("codec", [c.BLOCK_FP8, c.GROUP_FP4, "bf16", "f16", "f32"])
def test_encode_then_decode_is_stable(codec) -> None:
    w = (RNG.normal(size=(130, 96)) * 10.0 ** RNG.uniform(-3, 2, (130, 1))).astype(np.float32)
    w[3] = 0
    once = c.decode_weight(*c.encode_weight(w, codec), codec)
    limit = {c.BLOCK_FP8: np.abs(w).max() / 16, c.GROUP_FP4: np.abs(w).max() / 4}.get(codec, 1.0)
    assert np.abs(once - w).max() <= limit
    if "/" not in codec:
        np.testing.assert_allclose(once, w, rtol=2.0**-8, atol=1e-7)
    np.testing.assert_array_equal(c.decode_weight(*c.encode_weight(once, codec), codec), once)


def test_agrees_with_the_independent_writer_of_the_tests() -> None:
    np.testing.assert_array_equal(c.E4M3, stored.E4M3)
    np.testing.assert_array_equal(c.E2M1[:8], stored.E2M1)


def test_unknown_codec() -> None:
    with pytest.raises(ValueError, match="unknown codec"):
        c.decode_weight(CODES, None, "q4_0")
    with pytest.raises(ValueError, match="unknown codec"):
        c.encode_weight(np.zeros((2, 2)), "q4_0")


def by_the_book(x: np.ndarray, top: float, floor: float, dtype) -> np.ndarray:
    """Section 7 word for word for one block, with ml_dtypes as the number format."""
    amax = max(np.abs(x).max(), np.float32(floor))
    bits = int((np.float32(amax) / np.float32(top)).view(np.uint32))
    exponent = (bits >> 23) - 127 + (1 if bits & 0x7FFFFF else 0)
    y = np.clip(x.astype(np.float64) / 2.0**exponent, -top, top).astype(np.float32)
    return y.astype(dtype).astype(np.float32) * np.float32(2.0**exponent)


@pytest.mark.parametrize(("rounding", "top", "floor", "dtype", "values"), [
    (c.round_e4m3, 448.0, 1e-4, ml_dtypes.float8_e4m3fn, c.E4M3),
    (c.round_e2m1, 6.0, 6 * 2.0**-126, ml_dtypes.float4_e2m1fn, c.E2M1)])
def test_roundings_code_by_code(rounding, top, floor, dtype, values) -> None:
    probes = between(values)
    probes = probes[np.abs(probes) <= top]
    blocks = np.zeros((len(probes), 32), np.float32)
    blocks[:, 0], blocks[:, 7] = top, probes            # the largest value pins the scale to 1
    got = rounding(blocks, 32)
    np.testing.assert_array_equal(got[:, 7], probes.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(got[:, 0], np.full(len(probes), top))
    for power in (-20, 13):                             # and any power of two beside it
        unit = np.float32(2.0**power)
        np.testing.assert_array_equal(rounding(blocks * unit, 32), got * unit)
    random = (RNG.normal(size=(200, 64)) * 10.0 ** RNG.uniform(-6, 4, (200, 1))).astype(np.float32)
    random[0] = 0
    random[1, :32] = np.linspace(0, 1e-5, 32)           # below the floor of the scale
    random[2, 5] = 1e4                                  # an outlier
    got = rounding(random, 32).reshape(-1, 32)
    for mine, x in zip(got, random.reshape(-1, 32), strict=True):
        np.testing.assert_array_equal(mine, by_the_book(x, top, floor, dtype))


def test_scale_is_exact_where_the_maximum_is_a_boundary() -> None:
    for amax, scale in [(448.0, 1.0), (np.nextafter(np.float32(448), np.float32(1e9)), 2.0),
                        (224.0, 0.5), (449.0, 2.0)]:
        x = np.zeros(64, np.float32)
        x[0], x[1] = amax, 0.75 * scale * 2.0**-9       # finer than half a step: goes up to one
        assert c.round_e4m3(x, 64)[1] == scale * 2.0**-9


def test_a_short_last_block() -> None:
    x = RNG.normal(size=(3, 80)).astype(np.float32)
    got = c.round_e4m3(x, 64)
    np.testing.assert_array_equal(got[:, 64:], c.round_e4m3(x[:, 64:], 16))
    assert got.shape == x.shape


@pytest.mark.parametrize("n", [1, 2, 8, 128])
def test_hadamard_is_sylvesters_matrix(n) -> None:
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    x = RNG.normal(size=(4, 3, n)).astype(np.float32)
    np.testing.assert_allclose(c.hadamard(x), x @ h.T / np.sqrt(n), atol=2e-6)
    np.testing.assert_allclose(c.hadamard(c.hadamard(x)), x, atol=2e-6)


def test_hadamard_needs_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        c.hadamard(np.zeros(48))
