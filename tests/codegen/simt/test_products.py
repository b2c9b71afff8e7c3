"""Products and experts for chips of any warp and scratch, on weights that stay packed."""

import numpy as np
import pytest

from firstlight.codegen.simt import scheduled
from firstlight.codegen.simt.experts import expert_ffn
from firstlight.codegen.simt.products import linears, shape_for
from firstlight.codegen.simt.weights import Weight
from firstlight.passes.capabilities import Threads
from support.packed import FP4, FP8, INT4, random_weight
from support.simt import call, chip, executor

CHIPS = {"no warp": (1, 32 << 10), "warp 32": (32, 48 << 10), "warp 64": (64, 32 << 10),
         "little scratch": (32, 1 << 10)}


def operands(weight) -> list[np.ndarray]:
    return [a for a in (weight.codes, weight.scales) if a is not None]


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return bool(np.abs(got - want).max() <= 2e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("codec", [FP4, FP8, "bf16", "f16", "f32"])
def test_a_product_is_the_same_whatever_the_chip(codec: str, name: str, tmp_path) -> None:
    warp, scratch = CHIPS[name]
    n, k, random = 37, 160, np.random.default_rng(3)
    weight = random_weight(random, codec, (n, k))
    capabilities = chip(scratch, group=64, warp=warp)
    for tokens in (1, 6):
        kernel = linears("product", [Weight(codec, 1, n, k)], 1, tokens, capabilities.threads,
                         scratch)
        x = random.standard_normal((tokens, k), np.float32)
        got = call(tmp_path, kernel, capabilities, [x, *operands(weight)],
                   ((tokens, n), np.float32), tokens)
        assert close(got, x.astype(np.float64) @ weight.value.T)


def test_group_memory_is_what_the_chip_has() -> None:
    for warp, scratch in CHIPS.values():
        threads = Threads(group=64, warp=warp)
        for words, tokens, sums in ((20, 1, 1), (1 << 10, 5, 2), (3, 5, 1)):
            shape = shape_for(threads, words, tokens, sums, scratch)
            assert 4 * shape.threads * shape.tokens * sums <= scratch
            assert shape.lanes <= words
        assert shape_for(threads, 1 << 10, 1, 1, scratch).lanes == (warp if warp > 1 else 16)


def test_the_launches_say_how_much_group_memory_they_use() -> None:
    capabilities = chip(group=128, warp=32)
    kernel = linears("product", [Weight("f32", 1, 64, 256)], 1, 1, capabilities.threads, 32 << 10)
    assert scheduled(kernel, capabilities).resources() == {
        "shared_bytes": 4 * 128, "group_threads": 128}


@pytest.mark.parametrize("codecs", [(FP4, FP8), ("bf16", "f32")])
def test_experts(codecs: tuple[str, str], tmp_path) -> None:
    """Chosen experts in one codec, the shared one in another; a negative index counts back."""
    d, inner, shared, experts, chosen, tokens, limit = 64, 32, 96, 5, 2, 3, 1.5
    random, (routed, common) = np.random.default_rng(4), codecs
    shapes = [(routed, (experts, inner, d)), (routed, (experts, inner, d)),
              (routed, (experts, d, inner)), (common, (shared, d)), (common, (shared, d)),
              (common, (d, shared))]
    weights = [random_weight(random, codec, shape) for codec, shape in shapes]
    x = random.standard_normal((tokens, d), np.float32)
    index = np.array([[0, 4], [2, -1], [3, 3]], np.int32)
    gates = random.random((tokens, chosen), np.float32)
    w1, w3, w2, s1, s3, s2 = (w.value for w in weights)

    def inner_of(a, b, v):
        gate = np.minimum(a @ v, limit)
        return gate / (1 + np.exp(-gate)) * np.clip(b @ v, -limit, limit)

    want = np.stack([
        s2 @ inner_of(s1, s3, v) + sum(g * (w2[e] @ inner_of(w1[e], w3[e], v))
                                       for e, g in zip(row, gate, strict=True))
        for v, row, gate in zip(x.astype(np.float64), index, gates, strict=True)])
    capabilities = chip(warp=32)
    stacks = [Weight(c, s[0] if len(s) == 3 else 1, *s[-2:]) for c, s in shapes]
    kernel = expert_ffn("experts", stacks, chosen, limit, capabilities.threads, 32 << 10)
    got = np.zeros((tokens, d), np.float32)
    arrays = [x, index, gates, *(a for w in weights for a in operands(w)), got]
    executor(tmp_path, scheduled(kernel, capabilities)).run("experts", arrays, tokens)
    assert close(got, want)


def test_what_does_not_fit_is_left_to_generic_kernels() -> None:
    assert not Weight(FP4, 1, 4, 48).fits, "half a group"
    assert not Weight("bf16", 1, 4, 33).fits, "half a word"
    assert not Weight(INT4, 1, 4, 64).fits, "no decoder"
    assert not Weight("f32", 1 << 10, 1 << 11, 1 << 11).fits, "places beyond 32 bits"
    assert Weight(FP8, 3, 100, 132).fits
