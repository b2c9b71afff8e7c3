"""The attention kernels against the numpy meaning in float64, over sequences cut into calls."""

from functools import lru_cache

import numpy as np
import pytest

from firstlight.ir import composites  # noqa: F401  (fills the op table)
from firstlight.ir.registry import lookup
from firstlight.ir.types import StateType
from firstlight.targets.cpu.kernels.attention import hybrid_attention
from support.kernel_call import LANES, Compiled, aligned

# heads, width, window, pairs
SHAPES = [(3, 24, 5, 4), (16, 64, 16, 32), (20, 21, 8, 1), (1, 16, 2, 8), (33, 8, 1, 2)]
RATIO, CAPACITY, PICKED = 3, 40, 7
CUTS = [[19], [1, 2, 11, 1], [3, 20, 1]]


@lru_cache
def compiled(shape, kind, decode_only, lanes):
    heads, width, window, pairs = shape
    kernel = hybrid_attention(
        "k", heads=heads, width=width, window=window, pairs=pairs, scale=width**-0.5, entries=kind,
        ratio=RATIO, capacity=CAPACITY, k=PICKED, decode_only=decode_only, lanes=lanes,
    )  # fmt: skip
    return Compiled(kernel, lanes)


def run(shape, kind, decode_only, lanes, cuts, hostile=False):
    """Largest errors of (o, ring) over the calls."""
    heads, width, window, pairs = shape
    kernel = compiled(shape, kind, decode_only, lanes)
    rng = np.random.default_rng(heads)
    ring = aligned(rng.standard_normal((2, window, width), np.float32))
    entries = rng.standard_normal((2, CAPACITY, width), np.float32)
    sink = rng.standard_normal(heads).astype(np.float32)
    if hostile:
        sink[0], sink[-1] = 90, -90
    freqs = (100.0 ** -(np.arange(pairs) / pairs)).astype(np.float32)
    slot = np.array([1], np.int32)
    types = [None] * 7 + [StateType("entries", width, ratio=RATIO)]
    known, other, pos, worst = ring.astype(np.float64), ring[0].copy(), 0, 0.0
    for tokens in cuts:
        q = rng.standard_normal((1, tokens, heads, width), np.float32)
        kv = rng.standard_normal((1, tokens, width), np.float32)
        if hostile:
            q *= 100
            kv[0, 0] = 0
        at, more = np.array([pos], np.int32), []
        if kind != "none":
            more.append(entries)
        if kind == "picked":
            index = np.full((1, tokens, PICKED), -1, np.int32)
            for s in range(tokens):
                visible = (pos + s + 1) // RATIO
                some = rng.permutation(visible)[:PICKED]
                index[0, s, : len(some)] = some
                index[0, s, 1] = -1  # a hole
            more.append(index)
        plain = [a.astype(np.float64) for a in (q, kv, sink)]
        decoded = [a.astype(np.float64) if a.dtype == np.float32 else a for a in more]
        want, known = lookup("hybrid_attention").reference(
            *plain, freqs, known, slot, at, *decoded, scale=width**-0.5, types=types)  # fmt: skip
        (got,) = kernel([q, kv, sink, freqs, ring, slot, at, *more], [q], tokens)
        worst = max(worst, float(np.abs(got - want).max()))
        assert np.array_equal(ring[1], known[1].astype(np.float32))
        pos += tokens
    assert np.array_equal(ring[0], other)
    return worst


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["none", "all", "picked"])
def test_prefill(shape, kind):
    assert max(run(shape, kind, False, 8, cuts) for cuts in CUTS) < 2e-6


@pytest.mark.parametrize("shape", SHAPES[::2])
@pytest.mark.parametrize("kind", ["none", "all", "picked"])
def test_decode(shape, kind):
    assert run(shape, kind, True, 8, [1] * 20) < 2e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("decode_only", [False, True])
def test_widths_of_vectors_and_large_scores(lanes, decode_only):
    shape = (40, 104, 7, 32)  # several blocks of heads, two chunks of columns
    assert run(shape, "picked", decode_only, lanes, [1] * 18) < 2e-6
    assert run(shape, "all", decode_only, lanes, [1] * 18, hostile=True) < 2e-5
