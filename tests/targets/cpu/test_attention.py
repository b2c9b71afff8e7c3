"""The attention kernels against the numpy meaning in float64, over sequences cut into calls."""

import re
from functools import lru_cache

import numpy as np
import pytest

from firstlight.ir import composites, rows  # noqa: F401  (fills the op table)
from firstlight.ir.registry import lookup
from firstlight.ir.types import StateType, kv_fp8
from firstlight.targets.cpu.kernels.attention import hybrid_attention
from support.kernel_call import LANES, Compiled, aligned, max_error, products, to_bf16

# heads, width, window, pairs
SHAPES = [(3, 24, 5, 4), (16, 64, 16, 32), (20, 21, 8, 1), (1, 16, 2, 8), (33, 8, 1, 2),
          (5, 21, 4, 3),     # few heads of an odd width: a lane cannot have two columns
          (16, 40, 53, 4)]   # a window of more than a group of rows
RATIO, CAPACITY, PICKED = 3, 48, 7
CUTS = [[19], [1, 2, 11, 1], [3, 20, 1], [32, 31, 6, 32, 30]]


@lru_cache
def compiled(shape, kind, decode_only, lanes, codec, states=(RATIO, CAPACITY, PICKED)):
    heads, width, window, pairs = shape
    ratio, capacity, picked = states
    kernel = hybrid_attention(
        "k", heads=heads, width=width, window=window, pairs=pairs, scale=width**-0.5, entries=kind,
        ratio=ratio, capacity=capacity, k=picked, tokens=1 if decode_only else 32,
        codecs=(codec, codec), lanes=lanes,
    )  # fmt: skip
    return Compiled(kernel, lanes)


def run(shape, kind, decode_only, lanes, cuts, hostile=False, codec="f32",
        states=(RATIO, CAPACITY, PICKED)):  # fmt: skip
    """Largest error of o over the calls; the ring is right to the bit."""
    heads, width, window, pairs = shape
    ratio, capacity, picked = states
    kernel = compiled(shape, kind, decode_only, lanes, codec, states)
    rng = np.random.default_rng(heads)
    known = rng.standard_normal((2, window, width)).astype(np.float32)
    ring, old = stored(known, codec)
    entries, decoded = stored(rng.standard_normal((2, capacity, width), np.float32), codec)
    sink = rng.standard_normal(heads).astype(np.float32)
    if hostile:
        sink[0], sink[-1] = 90, -90
    freqs = (100.0 ** -(np.arange(pairs) / pairs)).astype(np.float32)
    slot = np.array([1], np.int32)
    types = [None] * 4 + [StateType("ring", width, window, codec=codec), None, None,
                          StateType("entries", width, ratio=ratio, codec=codec)]
    known, other, pos, worst = old.astype(np.float64), ring[0].copy(), 0, 0.0
    for tokens in cuts:
        q = rng.standard_normal((1, tokens, heads, width), np.float32)
        kv = rng.standard_normal((1, tokens, width), np.float32)
        if hostile:
            q *= 100
            kv[0, 0] = 0
        at, more, seen = np.array([pos], np.int32), [], []
        if kind != "none":
            more, seen = [entries], [decoded]
        if kind == "picked":
            index = np.full((1, tokens, picked), -1, np.int32)
            for s in range(tokens):
                visible = (pos + s + 1) // ratio
                first = s % 3 > 0    # all of the first ones, or any with a hole
                some = rng.permutation(min(visible, picked) if first else visible)[:picked]
                index[0, s, : len(some)] = some
                index[0, s, 1] = index[0, s, 1] if first else -1
            more, seen = [entries, index], [decoded, index]
        plain = [a.astype(np.float64) for a in (q, kv, sink)]
        seen = [a.astype(np.float64) if a.dtype == np.float32 else a for a in seen]
        want, known = lookup("hybrid_attention").reference(
            *plain, freqs, known, slot, at, *seen, scale=width**-0.5, types=types)  # fmt: skip
        (got,) = kernel([q, kv, sink, freqs, ring, slot, at, *more], [q], tokens)
        worst = max(worst, float(np.abs(got - want).max()))
        now = ring if codec == "f32" else rows.decode(ring, width, codec)
        assert np.array_equal(now[1], known[1].astype(np.float32))
        pos += tokens
    assert np.array_equal(ring[0], other)
    return worst


def stored(x, codec):
    """A state's memory, and what it means."""
    if codec == "f32":
        return aligned(x), x
    raw = aligned(rows.encode(x, codec))
    return raw, rows.decode(raw, x.shape[-1], codec)


@pytest.mark.parametrize("codec", ["bf16", kv_fp8(16), kv_fp8(2)])
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("heads", [3, 16])
def test_codecs(codec, decode_only, heads):
    cuts = [1] * 20 if decode_only else [3, 20, 1]
    shape = (heads, 80, 5, 8) if codec != kv_fp8(2) else (heads + 17, 21, 8, 1)
    assert run(shape, "picked", decode_only, 8, cuts, codec=codec) < 4e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("kind", ["all", "picked"])
@pytest.mark.parametrize("shape", [(16, 24, 2, 4), (8, 24, 3, 4), (16, 40, 1, 4)])
def test_entries_of_several_groups(shape, kind, lanes):
    cuts = [32, 32, 7, 32, 20, 9]
    assert run(shape, kind, False, lanes, cuts, states=(1, 140, 110)) < 2e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("heads", "window", "kind", "cuts"), [
    (3, 5, "picked", [[12], [5, 1, 6], [1] * 12]),
    (16, 60, "picked", [[32] * 4 + [3], [31, 1, 6, 30, 2, 3, 32, 26], [1] * 131]),
    (8, 60, "all", [[32] * 4 + [3], [31, 1, 6, 30, 2, 3, 32, 26], [1] * 131]),
])  # fmt: skip
def test_the_chunks_of_a_sequence_change_nothing(heads, window, kind, cuts, lanes):
    """Whether a row comes from the ring or from the same call, and which tokens are neighbours, to
    the last bit."""
    width, tokens, codec = 80, sum(cuts[0]), kv_fp8(16)
    kernel = compiled((heads, width, window, 8), kind, False, lanes, codec)
    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, tokens, heads, width), np.float32)
    kv = rng.standard_normal((1, tokens, width), np.float32)
    entries, _ = stored(rng.standard_normal((1, CAPACITY, width), np.float32), codec)
    index = rng.integers(-1, CAPACITY, (1, tokens, PICKED)).astype(np.int32)
    index[:, ::3] = rng.permuted(np.broadcast_to(np.arange(PICKED), index[:, ::3].shape), axis=2)
    index[:, 1::7] = -1
    index[:, 2::7, 1:] = 0   # the same one again and again
    found = []
    for lengths in cuts:
        ring, pos, out = aligned(rows.encode(np.zeros((1, window, width)), codec)), 0, []
        for n in lengths:
            part = slice(pos, pos + n)
            (o,) = kernel([q[:, part], kv[:, part], np.zeros(heads, np.float32),
                           np.ones(8, np.float32), ring, np.zeros(1, np.int32),
                           np.array([pos], np.int32), entries,
                           *([index[:, part]] if kind == "picked" else [])], [q[:, part]], n)
            out.append(o)
            pos += n
        found.append((np.concatenate(out, 1), ring.copy()))
    for o, ring in found[1:]:
        np.testing.assert_array_equal(o, found[0][0])
        np.testing.assert_array_equal(ring, found[0][1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["none", "all", "picked"])
@pytest.mark.parametrize("lanes", LANES)
def test_prefill(shape, kind, lanes):
    assert max(run(shape, kind, False, lanes, cuts) for cuts in CUTS) < 2e-6


@pytest.mark.parametrize("shape", SHAPES[::2])
@pytest.mark.parametrize("kind", ["none", "all", "picked"])
def test_decode(shape, kind):
    assert run(shape, kind, True, 8, [1] * 20) < 2e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("heads", [72, 100])
def test_blocks_of_heads(lanes, decode_only, heads):
    assert run((heads, 24, 7, 4), "picked", decode_only, lanes, [1] * 9) < 2e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("decode_only", [False, True])
def test_widths_of_vectors_and_large_scores(lanes, decode_only):
    shape = (40, 104, 7, 32)  # two chunks of columns
    assert run(shape, "picked", decode_only, lanes, [1] * 18) < 2e-6
    # scores reach 400, of which float32 keeps that much
    assert run(shape, "all", decode_only, lanes, [1] * 18, hostile=True) < np.spacing(
        np.float32(400))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("heads", [8, 16, 48, 64])
def test_one_token_of_few_rows_and_of_many(heads, lanes):
    """Threads share its heads while there are up to 256 rows, then the rows."""
    shape = (heads, 40, 140, 4)
    assert run(shape, "all", True, lanes, [1] * 150, states=(1, 150, 0)) < 2e-6


@pytest.mark.parametrize("codec", ["f32", kv_fp8(64)])
@pytest.mark.parametrize("tokens", [1, 32])
@pytest.mark.parametrize("lanes", [8, 16])
def test_loops_do_not_spill(codec, tokens, lanes):
    kernel = hybrid_attention("k", heads=16, width=512, window=128, pairs=32, scale=0.1, ratio=128,
                              entries="all", capacity=64, tokens=tokens, codecs=(codec, codec),
                              lanes=lanes)
    loops = list(products(kernel, lanes))
    assert len(loops) >= 2, "scores and mix"
    assert not [line for loop in loops for line in loop.splitlines() if re.search(
        r"%rsp.*%[yz]mm|%[yz]mm.*%rsp", line)]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codec", ["f32", "bf16"])
@pytest.mark.parametrize("cuts", [[1] * 9, [1, 2, 11, 3], [32, 7, 32]])
@pytest.mark.parametrize(("heads", "width", "norm"), [
    (3, 80, "f32"), (16, 80, "bf16"), (32, 80, "f16"), (72, 464, "f32")])
def test_queries_and_keys_as_they_were_projected(heads, width, norm, cuts, codec, lanes):
    """Against the numpy meaning in float64: alone, among neighbours, and of so many heads that
    threads share them."""
    window, pairs = 9, 8
    attrs = {"eps": 1e-3, "scale": width**-0.5}
    kernel = Compiled(hybrid_attention(
        "k", heads=heads, width=width, window=window, pairs=pairs, entries="all", ratio=RATIO,
        capacity=CAPACITY, tokens=max(cuts), codecs=(codec, codec), norm=norm, lanes=lanes,
        **attrs), lanes)  # fmt: skip
    rng = np.random.default_rng(heads)
    ring, old = stored(np.zeros((1, window, width), np.float32), codec)
    entries, decoded = stored(rng.standard_normal((1, CAPACITY, width), np.float32), codec)
    weight = (rng.standard_normal(width) + 1).astype(np.float16).astype(np.float32)
    bits, weight = to_bf16(weight) if norm == "bf16" else (
        weight.astype({"f16": np.float16, "f32": np.float32}[norm]), weight)
    sink = rng.standard_normal(heads).astype(np.float32)
    freqs = (100.0 ** -(np.arange(pairs) / pairs)).astype(np.float32)
    slot, pos, known = np.zeros(1, np.int32), 0, old.astype(np.float64)
    types = (*[None] * 5, StateType("ring", width, window, codec=codec), None, None,
             StateType("entries", width, ratio=RATIO, codec=codec))
    for tokens in cuts:
        q = 30 * rng.standard_normal((1, tokens, heads, width), np.float32)
        kv = rng.standard_normal((1, tokens, width), np.float32)
        kv[0, 0, 3], q[0, -1, 0] = 1e3, 0
        at = np.array([pos], np.int32)
        want, known = lookup("norm_rope_attention").reference(
            q.astype(np.float64), kv.astype(np.float64), weight.astype(np.float64), sink, freqs,
            known, slot, at, decoded.astype(np.float64), types=types, **attrs)  # fmt: skip
        (got,) = kernel([q, kv, bits, sink, freqs, ring, slot, at, entries], [q], tokens)
        assert max_error(got, want) < (4e-6 if codec == "f32" else 4e-3)
        now = ring if codec == "f32" else rows.decode(ring, width, codec)
        np.testing.assert_allclose(now, known, rtol=0 if codec == "f32" else 0.01, atol=1e-5)
        known = now.astype(np.float64)      # a value between two codes may go either way
        pos += tokens
