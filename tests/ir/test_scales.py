"""Scales with the least error."""

import numpy as np
import pytest

from firstlight.ir.codecs import GROUPED, decode_weight, encode_weight
from firstlight.ir.scales import quantize, requantized
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, GROUP_INT4, GROUP_INT8


def errors(w: np.ndarray, coded) -> np.ndarray:
    """Squared error of every group."""
    return np.square(decode_weight(*coded) - w).reshape(len(w), -1, 32).sum(-1)


@pytest.mark.parametrize("codec", GROUPED)
@pytest.mark.parametrize("shape", ["normal", "heavy", "outliers", "tiny", "zero"])
def test_no_group_is_worse_than_without_a_search(codec, shape) -> None:
    random = np.random.default_rng(1)
    w = random.standard_normal((24, 128)).astype(np.float32)
    w = {"normal": w, "heavy": w**3, "outliers": np.where(random.random(w.shape) < 0.01, 50 * w, w),
         "tiny": w * np.float32(1e-36), "zero": 0 * w}[shape]
    plain = errors(w, (*encode_weight(w, codec), codec))
    best = errors(w, (*quantize(w, codec), codec))
    assert np.all(best <= plain * (1 + 1e-5))
    if codec != GROUP_INT8 and shape in ("normal", "heavy"):
        assert best.sum() < 0.97 * plain.sum()


def test_a_fine_grid_of_scales_finds_little_more() -> None:
    """The search is held against 400 scales of either sign."""
    w = np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32)
    best = errors(w, (*quantize(w, GROUP_INT4), GROUP_INT4)).sum()
    grid = np.linspace(0.05, 0.2, 400)[:, None, None] * np.abs(w).max(-1, keepdims=True)
    ideal = np.full(len(w), np.inf)
    for unit in (grid, -grid):
        left = w - np.clip(np.rint(w / unit), -8, 7) * unit
        ideal = np.minimum(ideal, np.square(left).sum(-1).min(0))
    assert best <= 1.05 * ideal.sum()


def test_what_the_format_has_is_kept() -> None:
    random = np.random.default_rng(3)
    for codec in (GROUP_FP4, GROUP_INT4, GROUP_INT8):
        form, top = GROUPED[codec], {GROUP_INT8: 256}.get(codec, 16)
        codes = random.integers(0, 256, (8, 64 if top == 256 else 32), np.uint8)
        codes[:, ::16] = 0x7F if top == 256 else 0x77      # the largest value is there
        codes[codes == 0x80] = 0x81 if top == 256 else 0x80     # int8 is symmetric
        values = form.decode(codes).reshape(8, -1)
        np.testing.assert_array_equal(requantized(values * np.float32(0.25), codec), values / 4)


def test_importance_moves_the_error() -> None:
    random = np.random.default_rng(4)
    w = random.standard_normal((64, 64)).astype(np.float32)
    importance = np.where(np.arange(64) % 2, 100, 0.01).astype(np.float32)
    aware = decode_weight(*quantize(w, GROUP_INT4, importance), GROUP_INT4)
    blind = decode_weight(*quantize(w, GROUP_INT4), GROUP_INT4)
    weighted = [float((importance * np.square(x - w)).sum()) for x in (aware, blind)]
    assert weighted[0] < 0.9 * weighted[1]


def test_stacks() -> None:
    w = np.random.default_rng(5).standard_normal((3, 130, 64)).astype(np.float32)
    for codec in (*GROUPED, BLOCK_FP8, "bf16"):
        got = requantized(w, codec)
        for e in range(3):
            np.testing.assert_array_equal(
                got[e], decode_weight(*quantize(w[e], codec), codec))
