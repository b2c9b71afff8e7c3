"""Routing kernels against the numpy meaning in float64."""

import numpy as np
import pytest

from firstlight.ir import composites  # noqa: F401  (fills the op table)
from firstlight.ir.registry import lookup
from firstlight.targets.cpu.kernels.route import route, route_hash
from support.kernel_call import LANES, MOST, Compiled, max_error, to_bf16

SHAPES = [(5, 13, 2), (64, 48, 6), (2, 8, 1), (9, 24, 9)]


def inputs(tokens, experts, width):
    rng = np.random.default_rng(tokens + experts)
    x = rng.standard_normal((1, tokens, width), np.float32) * 3
    x[0, -1] *= 0 if tokens > 1 else 1
    return x, *to_bf16(rng.standard_normal((experts, width)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_scores(shape, decode_only, lanes):
    experts, width, k = shape
    attrs = {"k": k, "scale": 1.5}
    kernel = Compiled(
        route("k", experts=experts, width=width, gate="bf16", decode_only=decode_only, lanes=lanes,
              **attrs), lanes,
    )  # fmt: skip
    for tokens in (1,) if decode_only else (1, 6):
        x, bits, gate = inputs(tokens, experts, width)
        bias = np.random.default_rng(3).standard_normal(experts).astype(np.float32)
        plain = [a.astype(np.float64) for a in (x, gate, bias)]
        index, weights = lookup("route").reference(*plain, **attrs)
        got = kernel([x, bits, bias], [index, weights.astype(np.float32)], tokens)
        assert np.array_equal(got[0], index)
        assert max_error(got[1], weights) < 1e-6


@pytest.mark.parametrize("decode_only", [False, True])
def test_ties_and_extreme_gates(decode_only):
    experts, width, k = 7, 8, 3
    kernel = Compiled(
        route("k", experts=experts, width=width, k=k, scale=2.0, decode_only=decode_only)
    )
    x = np.ones((1, 1, width), np.float32)
    for rows in ([0, 1, 1, 0, 1, 1, 0], [-4e3, -5e3, 3e3, 1e4, 1e4, 0, 0], [-8] * 7):
        gate = np.repeat(np.array(rows, np.float32)[:, None], width, 1)
        bias = np.zeros(experts, np.float32)
        plain = [a.astype(np.float64) for a in (x, gate, bias)]
        index, weights = lookup("route").reference(*plain, k=k, scale=2.0)
        got = kernel([x, gate, bias], [index, weights.astype(np.float32)], 1)
        assert np.array_equal(got[0], index)
        assert np.abs(got[1] / weights - 1).max() < 1e-6  # relative, also where scores are tiny
    nan = np.full((experts, width), np.nan, np.float32)
    (index, _) = kernel([x, nan, bias], [index, weights.astype(np.float32)], 1)
    assert sorted(index.ravel()) == [0, 1, 2]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", [("i64", np.int64), ("i32", np.int32)])
@pytest.mark.parametrize("most", MOST)
def test_hash(shape, stored, most):
    experts, width, k = shape
    codec, dtype = stored
    rng = np.random.default_rng(k)
    table = np.stack([rng.permutation(experts)[:k] for _ in range(11)]).astype(dtype)
    kernel = Compiled(
        route_hash("k", experts=experts, width=width, k=k, scale=1.5, tokens=most, gate="bf16",
                   table=codec)
    )
    for tokens in (1, 6):
        x, bits, gate = inputs(tokens, experts, width)
        ids = rng.integers(0, 11, (1, tokens)).astype(np.int32)
        plain = [a.astype(np.float64) for a in (x, gate)]
        index, weights = lookup("route_hash").reference(*plain, table, ids, scale=1.5)
        got = kernel([x, bits, table, ids], [index, weights.astype(np.float32)], tokens)
        assert np.array_equal(got[0], index)
        assert max_error(got[1], weights) < 1e-6
