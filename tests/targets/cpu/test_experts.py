"""The expert sublayer against numpy in float64."""

import numpy as np
import pytest

from firstlight.targets.cpu.kernels.experts import expert_ffn
from support.kernel_call import LANES, Compiled
from support.packed import FP4, FP8, INT4, INT8, random_weight

LIMIT = 3.0
MIXES = {
    "released": [FP4] * 3 + [FP8] * 3,
    "base": [FP8] * 6,
    "plain": ["bf16", "f16", "f32", "bf16", "f32", "f16"],
    "integers": [INT4, INT8, INT4, INT8, INT8, INT4],
    "mixed": ["bf16", "f32", FP8, "f32", "bf16", FP4],
}


class Layer:
    """Random experts, their kernels, and what they should give."""

    def __init__(self, experts, chosen, d, inner, codecs, lanes, tokens):
        rng = np.random.default_rng(experts * d)
        up, down = (inner, d), (d, inner)
        shapes = [(experts, *up)] * 2 + [(experts, *down), up, up, down]
        self.weights = [
            random_weight(rng, c, s, exponents=(118, 122) if c in (FP4, INT4) else (110, 114))
            for c, s in zip(codecs, shapes, strict=True)
        ]
        self.call = Compiled(
            expert_ffn("experts", experts, chosen, d, inner, codecs, LIMIT, tokens, lanes), lanes
        )

    def error(self, x, index, gates) -> float:
        """Largest error as a fraction of what the down projections add up in magnitude."""
        pointers = [p for w in self.weights for p in w.pointers]
        (y,) = self.call([x, index, gates, *pointers], [np.empty_like(x)], len(x))
        want, bound = self.reference(x.astype(np.float64), index, gates.astype(np.float64))
        return float((np.abs(y - want) / np.maximum(bound, 1e-300)).max())

    def reference(self, x, index, gates):
        w1, w3, w2, s1, s3, s2 = (w.value for w in self.weights)
        f = swiglu(x @ s1.T, x @ s3.T)
        y, bound = f @ s2.T, np.abs(f) @ np.abs(s2).T
        for (s, a), e in np.ndenumerate(index):
            f = gates[s, a] * swiglu(w1[e] @ x[s], w3[e] @ x[s])
            y[s] += w2[e] @ f
            bound[s] += np.abs(w2[e]) @ np.abs(f)
        return y, bound


def swiglu(gate, up):
    gate, up = np.minimum(gate, LIMIT), np.clip(up, -LIMIT, LIMIT)
    return gate / (1 + np.exp(-np.maximum(gate, -700))) * up


def tokens_of(rng, count, experts, chosen, d):
    x = rng.standard_normal((count, d), np.float32)
    index = np.stack([rng.permutation(experts)[:chosen] for _ in range(count)]).astype(np.int32)
    return x, index, rng.random((count, chosen), np.float32)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize(
    ("mix", "experts", "chosen", "d", "inner"),
    [("released", 8, 2, 64, 32), ("base", 7, 5, 130, 100), ("plain", 2, 1, 40, 24),
     ("mixed", 7, 5, 130, 100), ("released", 3, 3, 256, 160), ("released", 3, 2, 304, 64)],
)  # fmt: skip
def test_against_numpy(experts, chosen, d, inner, mix, lanes):
    rng = np.random.default_rng(1)
    for tokens, counts in ((1, [1]), (64, [1, 2, 7, 64])):
        layer = Layer(experts, chosen, d, inner, MIXES[mix], lanes, tokens)
        for count in counts:
            assert layer.error(*tokens_of(rng, count, experts, chosen, d)) < 3e-6


@pytest.mark.parametrize("lanes", LANES)
def test_hostile_routing(lanes):
    """All tokens to the same experts, one expert twice, the last one only; outliers, zero rows."""
    rng, layer = np.random.default_rng(2), Layer(9, 2, 64, 24, MIXES["released"], lanes, 33)
    x, _, gates = tokens_of(rng, 33, 9, 2, 64)
    x[5], x[7] = 0, x[7] * 1e4
    for row in ([5, 1], [4, 4], [8, 0]):
        assert layer.error(x, np.tile(np.array(row, np.int32), (33, 1)), gates) < 3e-6
    alternating = np.array([[0, 1], [7, 8]] * 17, np.int32)[:33]
    assert layer.error(x, alternating, gates) < 3e-6


@pytest.mark.parametrize("lanes", LANES)
def test_a_token_does_not_depend_on_its_neighbours(lanes):
    """Any cut of a prompt gives the same bits."""
    rng, layer = np.random.default_rng(3), Layer(6, 3, 64, 48, MIXES["released"], lanes, 20)
    x, index, gates = tokens_of(rng, 20, 6, 3, 64)
    pointers = [p for w in layer.weights for p in w.pointers]

    def run(part: slice) -> np.ndarray:
        operands = [x[part], index[part], gates[part], *pointers]
        return layer.call(operands, [x[part]], len(x[part]))[0]

    assert np.array_equal(run(slice(20)), np.concatenate([run(slice(13)), run(slice(13, 20))]))
