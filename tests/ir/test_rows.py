"""Rows of states: their bytes from the specification's own words, and what rounding promises."""

import math

import numpy as np
import pytest

from firstlight.ir import rows
from firstlight.ir.parser import parse_type
from firstlight.ir.types import GROUP_FP4, KEYS_FP4, StateType, kv_fp8, row_codec

SHAPES = [(512, 64), (80, 16), (21, 2), (130, 0)]


def by_hand(x: np.ndarray, codec: str) -> bytes:
    """The bytes of one row by search among all values of the format, in float64 (spec 3.2, 7)."""
    form = row_codec(codec)
    mantissa, bias, top, floor, sign = {
        "e4m3": (3, 7, 448, float(np.float32(1e-4)), 0x80),
        "e2m1": (1, 1, 6, 6 * 2.0**-126, 8),
    }[form.codes]
    values = [math.ldexp((1 if e else 0) + m / (1 << mantissa), max(e, 1) - bias)
              for e in range(sign >> mantissa) for m in range(1 << mantissa)]
    values = values[:-1] if form.codes == "e4m3" else values        # the last one is NaN
    kept, codes, scales = len(x) - form.tail, [], []
    for start in range(0, kept, form.group):
        block = x[start:min(kept, start + form.group)].astype(np.float64)
        amax, power = max(floor, np.abs(block).max()), -126
        while top * 2.0**power < amax:
            power += 1
        scales.append(power + 127)
        for value in block / 2.0**power:
            gaps = np.abs(np.array(values) - abs(value))
            near = np.flatnonzero(gaps == gaps.min())
            code = next(int(c) for c in near if c % 2 == 0 or len(near) == 1)
            codes.append(code | sign * int(np.signbit(value)))
    if form.codes == "e2m1":
        codes = [low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True)]
    tail = b"".join(_bf16(v).to_bytes(2, "little") for v in x[kept:])
    raw = bytes(codes) + tail + bytes(scales)
    return raw + bytes(-len(raw) % 4)


def _bf16(value: np.float32) -> int:
    """The nearest of the two bf16 around a float32, the even one in the middle."""
    word = int(value.view(np.uint32))
    low, rest = word >> 16, word & 0xFFFF
    return low + (rest > 0x8000 or (rest == 0x8000 and low % 2 == 1))


def hostile(width: int) -> np.ndarray:
    """Rows of all magnitudes, with outliers, ties, subnormal codes, and nothing at all."""
    random = np.random.default_rng(width)
    x = random.standard_normal((12, width)).astype(np.float32)
    x[1] = 0
    x[2] *= np.exp2(random.integers(-40, 40, width)).astype(np.float32)
    x[3, width // 3] = 1e4
    x[4] = np.round(x[4] * 8) / 16                          # halves of codes
    x[5] *= np.float32(1e-4)
    x[6] *= np.float32(1e-30)
    x[7] = 448 * np.sign(x[7])
    x[8] = np.nextafter(np.float32(448), np.float32(500))
    x[9] = 6
    x[10] = np.nextafter(np.float32(6), np.float32(7))
    x[11, ::2] *= -0.0
    return x


@pytest.mark.parametrize(("width", "codec"), [
    *((width, kv_fp8(tail)) for width, tail in SHAPES), (128, GROUP_FP4), (32, GROUP_FP4)])
def test_bytes_of_a_row(width: int, codec: str) -> None:
    for x in hostile(width):
        assert rows.encode(x, codec).tobytes() == by_hand(x, codec)


def test_known_bytes() -> None:
    """Written down from the text of sections 3.2 and 7."""
    x = np.zeros(8, np.float32)
    x[:4], x[6:] = (448, -1, 2.0**-9, 17), (1, -3)
    # 448 = 1.75 * 2^8: scale 2^0. 17 is between 16 and 18, the even code is that of 16.
    assert rows.encode(x, kv_fp8(2)).tobytes() == bytes(
        [0x7E, 0xB8, 0x01, 0x58, 0, 0, 0x80, 0x3F, 0x40, 0xC0, 127, 0])
    keys = np.zeros(32, np.float32)
    keys[:6] = (6, -0.5, 2.5, 5, 0.25, 1.25)                # ties: 2, 4, 0, 1
    assert rows.encode(keys, GROUP_FP4).tobytes() == bytes(
        [0x97, 0x64, 0x20, *[0] * 13, 127, 0, 0, 0])


@pytest.mark.parametrize(("width", "tail"), SHAPES)
def test_what_is_read_is_what_was_rounded(width: int, tail: int) -> None:
    x = hostile(width)
    for codec in ("f32", "bf16", kv_fp8(tail)):
        once = rows.decode(rows.encode(x, codec), width, codec)
        np.testing.assert_array_equal(once, rows.rounded(x, codec))
        np.testing.assert_array_equal(rows.rounded(once, codec), once)


def test_rotated_rows_are_rotated_back() -> None:
    x = np.random.default_rng(0).standard_normal((50, 128)).astype(np.float32)
    x[:, 3] += 30                                           # what the transform spreads
    plain, turned = (rows.recalled(rows.held(x, c), c) for c in (GROUP_FP4, KEYS_FP4))
    error = [np.abs(np.delete(y - x, 3, -1)).mean() for y in (plain, turned)]
    assert np.abs(turned - x).max() < np.abs(x).max() / 4
    assert error[1] < error[0], "an outlier costs the others less"


@pytest.mark.parametrize(("width", "codec"), [(80, kv_fp8(16)), (32, KEYS_FP4), (7, "bf16")])
def test_no_rows(width: int, codec: str) -> None:
    """What a sequence that has just begun has written."""
    none = np.zeros((2, 0, width), np.float32)
    raw = rows.encode(rows.held(none, codec), codec)
    assert raw.shape == (2, 0, row_codec(codec).nbytes(width))
    assert rows.recalled(rows.decode(raw, width, codec), codec).shape == none.shape


def test_sizes() -> None:
    """Specification 6.5."""
    assert StateType("entries", 512, ratio=4, codec=kv_fp8(64)).row_bytes == 584
    assert StateType("entries", 512, ratio=4, codec="bf16").row_bytes == 1024
    assert StateType("entries", 128, ratio=4, codec=KEYS_FP4).nbytes(1 << 20) == 68 << 18
    assert StateType("ring", 80, 64).row_bytes == 320


def test_types_are_text() -> None:
    state = StateType("ring", 80, 64, codec=kv_fp8(16))
    assert str(state) == "!fl.state<ring, width=80, rows=64, codec=fp8e4m3/64:ue8m0-bf16x16>"
    assert parse_type(str(state)) == state


@pytest.mark.parametrize(("width", "codec"), [
    (48, GROUP_FP4), (96, KEYS_FP4), (64, kv_fp8(64)), (64, "int8"),
    (64, "fp8e4m3/64:ue8m0-bf16x0"),
    (64, f"hadamard-{kv_fp8(0)}")])
def test_what_cannot_be_stored(width: int, codec: str) -> None:
    with pytest.raises(ValueError, match=r"stored|no codec"):
        StateType("ring", width, 4, codec=codec)
