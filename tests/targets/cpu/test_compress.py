"""The compressor kernel against the numpy meaning, over whole sequences cut into calls."""

import numpy as np
import pytest

from firstlight.ir import composites, rows  # noqa: F401  (fills the op table)
from firstlight.ir.codecs import hadamard
from firstlight.ir.registry import lookup
from firstlight.ir.types import KEYS_FP4, StateType, kv_fp8
from firstlight.targets.cpu.kernels.compress import compress
from support.kernel_call import LANES, Compiled, aligned, max_error, to_bf16

CASES = [(4, 32, 16, True), (4, 21, 2, True), (2, 16, 1, True), (8, 32, 4, False),
         (128, 24, 4, False), (5, 19, 3, False), (1, 16, 2, True), (1, 8, 2, False)]  # fmt: skip
CUTS = [[40], [1] * 14, [3, 1, 1, 17, 2, 30], [1, 127, 1, 1, 126, 2, 130]]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("lanes", LANES)
def test_sequences(case, lanes):
    ratio, width, pairs, overlap = case
    w, rows = (2 * width, 2 * ratio) if overlap else (width, ratio)
    capacity = 400 // ratio
    attrs = {"eps": 1e-6, "overlap": overlap}
    types = [None] * 6 + [StateType("entries", width, ratio=ratio)]
    kernel = Compiled(
        compress("k", ratio=ratio, width=width, pairs=pairs, capacity=capacity, tokens=130,
                 ape="bf16", norm="bf16", lanes=lanes, **attrs), lanes,
    )  # fmt: skip
    rng = np.random.default_rng(ratio)
    ape_bits, ape = to_bf16(rng.standard_normal((ratio, w)))
    norm_bits, norm = to_bf16(rng.standard_normal(width))
    freqs = (100.0 ** -(np.arange(pairs) / pairs)).astype(np.float32)
    slot = np.array([1], np.int32)
    for cuts in CUTS:
        partial = aligned(rng.standard_normal((2, rows, 2 * w), np.float32))
        entries = aligned(np.zeros((2, capacity, width), np.float32))
        known = [partial.astype(np.float64), entries.astype(np.float64)]
        untouched = partial[0].copy()
        pos = 0
        for tokens in cuts:
            v, g = rng.standard_normal((2, 1, tokens, w), np.float32)
            g[0, tokens // 2] *= 1e4
            at = np.array([pos], np.int32)
            plain = [a.astype(np.float64) for a in (v, g, ape, norm)]
            known = list(lookup("compress").reference(*plain, freqs, *known, slot, at, **attrs,
                                                       types=types))
            kernel([v, g, ape_bits, norm_bits, freqs, partial, entries, slot, at], [], tokens)
            pos += tokens
            assert max_error(partial, known[0]) < 1e-7
            assert np.abs(entries - known[1]).max() < 5e-6
        assert np.array_equal(partial[0], untouched)
        assert not entries[1, pos // ratio :].any()
        assert not entries[0].any()


@pytest.mark.parametrize("codec", ["bf16", kv_fp8(16), KEYS_FP4])
def test_codecs(codec):
    """Entries are those of a float32 state, transformed and encoded, byte for byte."""
    width, ratio, tokens = 64, 4, 24
    rng, attrs = np.random.default_rng(0), {"eps": 1e-6, "overlap": True}
    v, g = rng.standard_normal((2, 1, tokens, 2 * width), np.float32)
    fixed = [rng.standard_normal((ratio, 2 * width), np.float32), np.ones(width, np.float32),
             np.ones(8, np.float32)]
    found = {}
    for name in ("f32", codec):
        kernel = Compiled(compress("k", ratio=ratio, width=width, pairs=8, capacity=8,
                                   tokens=tokens, codec=name, **attrs))
        entries = aligned(rows.encode(np.zeros((1, 8, width)), name))
        entries = entries.view(np.float32) if name == "f32" else entries
        kernel([v, g, *fixed, aligned(np.zeros((1, 2 * ratio, 4 * width), np.float32)), entries,
                np.zeros(1, np.int32), np.zeros(1, np.int32)], [], tokens)
        found[name] = entries
    want = found["f32"].reshape(1, 8, width)[:, :6]
    want = hadamard(want) if codec == KEYS_FP4 else want
    np.testing.assert_array_equal(found[codec][:, :6], rows.encode(want, codec))
