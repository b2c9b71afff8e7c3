"""Weight-streaming linear kernels and the embedding against numpy in float64."""

import numpy as np
import pytest

from firstlight.codegen.tvm_bridge import spills
from firstlight.targets.cpu.kernels.embedding import embedding
from firstlight.targets.cpu.kernels.layouts import grouped
from firstlight.targets.cpu.kernels.linear import group_linear, linears
from firstlight.targets.cpu.kernels.panel import SHARE
from support.kernel_call import LANES, OPTIONS, Compiled
from support.packed import CODECS, FP4, FP8, INT4, INT8, random_weight

TOKENS = 64
LIMIT = 1.5e-6
"""128 additions after an outlier may lose 128 * 2**-24 of it. Without outliers it is 2e-7."""


def error(got: np.ndarray, x: np.ndarray, w: np.ndarray) -> float:
    """Largest error of x W^T as a fraction of sum |x||w|."""
    x = x.astype(np.float64)
    bound = np.abs(x) @ np.abs(w).T
    return float((np.abs(got - x @ w.T) / np.maximum(bound, 1e-300)).max())


def hostile(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal values with outliers of 1e4 and, from three rows on, a row of zeros."""
    x = rng.standard_normal(shape, np.float32)
    x[..., :: max(1, shape[-1] // 3)] *= 1e4
    if shape[0] > 2:
        x[2] = 0
    return x


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("turn", "k"), [(0, 8), (1, 40), (2, 320), (3, 130)])
def test_all_codecs_side_by_side(turn, k, lanes):
    rng = np.random.default_rng(k)
    sizes = (1, 24, 100, 129)
    segments = [(sizes[(i + turn) % 4], codec) for i, codec in enumerate(CODECS)]
    weights = [random_weight(rng, codec, (n, k)) for n, codec in segments]
    pointers = [p for w in weights for p in w.pointers]
    for tokens, counts in ((1, [1]), (TOKENS, [1, 2, 5, 6, 7, TOKENS])):
        kernel = linears("linears", segments, k, tokens, lanes)
        assert kernel.layouts == (None, *["tile16"] * len(segments))
        call = Compiled(kernel, lanes)
        for s in counts:
            x = hostile(rng, s, k)
            ys = call([x, *pointers], [np.empty((s, n), np.float32) for n, _ in segments], s)
            for y, weight in zip(ys, weights, strict=True):
                assert error(y, x, weight.value) < LIMIT


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(("way", "codec"), [("", FP8), ("words", INT8)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_token_is_the_same_among_any_number(way, codec, groups, lanes):
    """Up to several tasks of `panel.SHARE` tokens, to the last bit."""
    rng, n, k, most = np.random.default_rng(1), 40, 160, 2 * SHARE + 84
    weight = random_weight(rng, codec, (groups * n, k), grouped(groups))
    call = Compiled(group_linear("k", groups, n, k, codec, most, lanes, way), lanes)
    x = rng.standard_normal((most, groups, k), np.float32)
    whole: np.ndarray | None = None
    for s in (most, 2 * SHARE + 1, 2 * SHARE, SHARE + 1, SHARE, SHARE - 1, 1):
        (y,) = call([x[:s], *weight.pointers], [np.empty((s, groups, n), np.float32)], s)
        if whole is None:
            whole = y
            want = weight.value.reshape(groups, n, k)
            for g in range(groups):
                assert error(y[:, g], x[:, g], want[g]) < (LIMIT if not way else 1e-4)
        np.testing.assert_array_equal(y, whole[:s])


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codec", [FP4, FP8, INT4, INT8])
@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("exponents", [(0, 2), (64, 70), (230, 234)])
def test_all_scales_are_exact(codec, tokens, exponents, lanes):
    rng = np.random.default_rng(5)
    weight = random_weight(rng, codec, (48, 256), exponents=exponents)
    x = np.zeros((tokens, 256), np.float32)
    x[0, 77] = 1024  # one column: nothing is rounded
    (y,) = Compiled(linears("exact", [(48, codec)], 256, tokens, lanes), lanes)(
        [x, *weight.pointers], [np.empty((tokens, 48), np.float32)], tokens
    )
    assert np.array_equal(y[0], (weight.value[:, 77] * 1024).astype(np.float32))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codec", [FP4, FP8, "bf16"])
@pytest.mark.parametrize(("groups", "n", "k"), [(6, 24, 130), (2, 16, 64)])
def test_groups(codec, groups, n, k, lanes):
    rng = np.random.default_rng(groups)
    weight = random_weight(rng, codec, (groups * n, k), grouped(groups))
    w = weight.value.reshape(groups, n, k)
    for tokens, s in ((1, 1), (9, 1), (9, 8)):
        call = Compiled(group_linear("groups", groups, n, k, codec, tokens, lanes), lanes)
        x = hostile(rng, s, groups, k)
        (y,) = call([x, *weight.pointers], [np.empty((s, groups, n), np.float32)], s)
        for g in range(groups):
            assert error(y[:, g], x[:, g], w[g]) < LIMIT


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codec", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("d", [5, 64, 100])
def test_embedding(codec, d, lanes):
    rng = np.random.default_rng(d)
    table = random_weight(rng, codec, (11, d))
    ids = np.array([10, 0, 0, 7], np.int32)
    call = Compiled(embedding("embedding", d, codec, 4, lanes), lanes)
    stored = table.codes.view(np.float16) if codec == "f16" else table.codes
    (y,) = call([stored, ids], [np.empty((4, d), np.float32)], 4)
    assert np.array_equal(y, table.value[ids])


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("tokens", [1, 512])
def test_hot_loops_do_not_spill(tokens, lanes):
    """A few spills around the loops are harmless; a hot loop that spills has dozens."""
    kernels = {
        f"k{i}": linears(f"k{i}", [(1024, codec)], 1024, tokens, lanes).func
        for i, codec in enumerate(CODECS)
    }
    assert max(spills(kernels, OPTIONS[lanes]).values()) <= 16
