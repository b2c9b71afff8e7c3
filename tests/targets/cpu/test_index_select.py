"""The indexer kernel: the same choice as numpy, ties and all."""

import numpy as np
import pytest

from firstlight.ir import composites, rows  # noqa: F401  (fills the op table)
from firstlight.ir.registry import lookup
from firstlight.ir.types import GROUP_FP4, KEYS_FP4, StateType
from firstlight.targets.cpu.kernels.index_select import index_select
from support.kernel_call import LANES, Compiled, products

# heads, width, ratio, capacity, k
SHAPES = [(2, 6, 4, 30, 5), (16, 32, 2, 700, 64), (64, 16, 4, 50, 50), (20, 13, 3, 900, 1),
          (72, 8, 4, 60, 20)]


def check(shape, decode_only, lanes, make, positions, codec="f32"):
    heads, width, ratio, capacity, k = shape
    attrs = {"k": k, "scale": 0.25, "head_scale": 0.5}
    kernel = Compiled(
        index_select("k", heads=heads, width=width, ratio=ratio, capacity=capacity,
                     tokens=1 if decode_only else 32, codec=codec, lanes=lanes, **attrs), lanes,
    )  # fmt: skip
    types = [None, None, StateType("entries", width, ratio=ratio, codec=codec)]
    slot = np.array([1], np.int32)
    keys = memory = np.stack([make((capacity, width)) for _ in range(2)])
    if codec != "f32":
        memory = rows.encode(keys, codec)
        keys = rows.decode(memory, width, codec)
    for calls in positions:
        at = np.array([calls], np.int32)
        tokens = len(calls)
        q, a = make((1, tokens, heads, width)), make((1, tokens, heads))
        want = lookup("index_select").reference(q, a, keys, slot, at, **attrs, types=types)
        (got,) = kernel([q, a, memory, slot, at], [want], tokens)
        assert np.array_equal(got, want)


def small_integers(shape):
    """Sums of these are exact in float32, and scores tie all the time."""
    return np.random.default_rng(shape[-1]).integers(-1, 2, shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_ties(shape, decode_only, lanes):
    _, _, ratio, capacity, k = shape
    last = ratio * capacity - 1
    if decode_only:
        some = {0, ratio - 2, ratio - 1, ratio, ratio * k - 2, ratio * k + 1, last}
        positions = [[p] for p in sorted(p for p in some if 0 <= p <= last)]
    else:
        positions = [list(range(last - 20, last + 1)), list(range(ratio + 1)), [0]]
    check(shape, decode_only, lanes, small_integers, positions)


def test_all_zero_and_all_negative():
    zeros = lambda shape: np.zeros(shape, np.float32)  # noqa: E731
    check(SHAPES[1], True, 8, zeros, [[1399], [50]])

    def negative(shape):
        values = np.random.default_rng(1).integers(1, 4, shape).astype(np.float32)
        return -values if len(shape) == 3 else values  # head weights below zero

    check(SHAPES[1], True, 8, negative, [[1399], [50]])


def test_real_scores_of_many_sizes():
    def normal(shape):
        # well separated: 1e-3 of distance is far above the rounding of a sum
        rng = np.random.default_rng(shape[-1])
        return (rng.integers(-8, 9, shape) * 10.0 ** rng.integers(-2, 3, shape)).astype(np.float32)

    check((1, 4, 1, 5000, 600), True, 8, normal, [[4999], [600], [599]])


@pytest.mark.parametrize("decode_only", [False, True])
def test_codecs(decode_only):
    """Small whole numbers are exact in both, and so is half of the transform of 64 of them."""
    positions = [[1399], [50]] if decode_only else [list(range(1380, 1400))]
    for codec in ("bf16", GROUP_FP4):
        check((16, 32, 2, 700, 64), decode_only, 8, small_integers, positions, codec)

    def apart(shape):
        """Scores that differ by more than rounding: one column each, turned back exactly."""
        rng = np.random.default_rng(shape[-1])
        if shape == (700, 64):
            x = np.zeros(shape, np.float32)
            x[np.arange(700), np.arange(700) % 64] = 1 + np.arange(700) // 64
            return x
        return np.abs(rng.standard_normal(shape) * 4).astype(np.float32)

    check((16, 64, 2, 700, 1), decode_only, 8, apart, positions, KEYS_FP4)


@pytest.mark.parametrize("codec", ["f32", KEYS_FP4])
def test_loops_do_not_spill(codec):
    kernel = index_select("k", heads=16, width=512, ratio=4, capacity=1024, k=64, scale=0.1,
                          head_scale=0.2, tokens=1, codec=codec)      # a narrow one is unrolled
    loops = list(products(kernel, 8))
    assert loops
    assert not [loop for loop in loops if "%rsp" in loop]
