"""Products in integers: exact but for the rounding of the activations, which is bounded."""

import numpy as np
import pytest

from firstlight.codegen.tvm_bridge import spills
from firstlight.targets.cpu.kernels.experts import expert_ffn
from firstlight.targets.cpu.kernels.limbs import GROUP, MOST
from firstlight.targets.cpu.kernels.linear import group_linear, linears
from support.kernel_call import LANES, OPTIONS, Compiled
from support.packed import FP4, FP8, INT4, INT8, random_weight

BOUND = 0.5 / MOST
"""Largest error of an activation, as a part of the largest of its group."""


def rounded(x: np.ndarray) -> np.ndarray:
    """What the kernels make of x [.., K]: 14-bit integers times a step for each group of 32."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % GROUP)])
    groups = padded.reshape(*x.shape[:-1], -1, GROUP).astype(np.float32)
    top = np.maximum(np.abs(groups).max(-1, keepdims=True), np.float32(1e-30))
    whole = np.rint(groups * (np.float32(MOST) / top))
    values = whole.astype(np.float64) * (top * np.float32(1 / MOST)).astype(np.float64)
    return values.reshape(padded.shape)[..., : x.shape[-1]]


def inputs(kind: str, k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    x = rng.standard_normal((1, k)).astype(np.float32)
    return {"normal": x, "zeros": 0 * x, "tiny": x * np.float32(1e-28),
            "huge": x * np.float32(1e20), "one sided": np.abs(x) + 1,
            "extremes": np.sign(x) * np.float32(3),
            "outliers": np.where(rng.random(x.shape) < 0.05, 1e4 * x, x)}[kind]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codec", [FP4, INT4])
@pytest.mark.parametrize("kind", ["normal", "zeros", "tiny", "huge", "one sided", "extremes",
                                  "outliers"])
def test_only_the_activations_are_rounded(codec, kind, lanes):
    """Integer sums are exact: against rounded activations nothing but float32 sums is left."""
    for k in (32, 130, 416):
        weight = random_weight(np.random.default_rng(k), codec, (40, k))
        x = inputs(kind, k)
        (y,) = Compiled(linears("linears", [(40, codec)], k, 1, lanes, integers="maddubs"), lanes)(
            [x, *weight.pointers], [np.empty((1, 40), np.float32)], 1)
        scale = np.abs(rounded(x)) @ np.abs(weight.value).T + 1e-30
        assert (np.abs(y - rounded(x) @ weight.value.T) / scale).max() < 3e-7
        groups = np.pad(np.abs(x), ((0, 0), (0, -k % GROUP))).reshape(-1, GROUP).max(-1)
        most = np.repeat(groups, GROUP)[:k] * BOUND * 1.001 + 1e-30
        assert (np.abs(rounded(x) - x) <= most).all()


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codec", [FP4, INT4])
def test_the_largest_sums_fit(codec, lanes):
    """Every weight and every activation at its largest, of equal and of alternating signs."""
    k, code = 64, {FP4: (0x77, 0xFF), INT4: (0x77, 0x88)}[codec]
    for byte in code:
        weight = random_weight(np.random.default_rng(1), codec, (16, k))
        weight.codes[...] = byte
        from firstlight.ir.codecs import decode_weight
        from firstlight.targets.cpu.kernels.layouts import PLAIN, pack

        packed = [p for p in pack(PLAIN, weight.codes, weight.scales, codec, (16, k))
                  if p is not None]
        value = decode_weight(weight.codes, weight.scales, codec).astype(np.float64)
        for x in (np.ones((1, k)), -np.ones((1, k)), np.resize([1.0, -1.0], (1, k)),
                  np.resize([1.0, 1.0, -1.0, -1.0], (1, k))):
            x = x.astype(np.float32)
            (y,) = Compiled(linears("l", [(16, codec)], k, 1, lanes, integers="maddubs"), lanes)(
                [x, *packed], [np.empty((1, 16), np.float32)], 1)
            scale = np.abs(x) @ np.abs(value).T
            assert (np.abs(y - x @ value.T) / scale).max() < 3e-7


@pytest.mark.parametrize("lanes", LANES)
def test_segments_and_groups(lanes):
    """Weights of other codecs beside them stay exact; groups of rows have vectors of their own."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((1, 160)).astype(np.float32)
    segments = [(24, FP4), (33, FP8), (16, INT4), (50, INT8), (8, "bf16")]
    weights = [random_weight(rng, codec, (n, 160)) for n, codec in segments]
    ys = Compiled(linears("l", segments, 160, 1, lanes, integers="maddubs"), lanes)(
        [x, *(p for w in weights for p in w.pointers)],
        [np.empty((1, n), np.float32) for n, _ in segments], 1)
    for y, weight, (_, codec) in zip(ys, weights, segments, strict=True):
        seen = rounded(x) if codec in (FP4, INT4) else x.astype(np.float64)
        scale = np.abs(x) @ np.abs(weight.value).T
        assert (np.abs(y - seen @ weight.value.T) / scale).max() < 1e-6, codec
    x = rng.standard_normal((1, 3, 64)).astype(np.float32)
    weight = random_weight(rng, FP4, (3 * 40, 64), "tile16.grouped3")
    (y,) = Compiled(group_linear("g", 3, 40, 64, FP4, 1, lanes, integers="maddubs"), lanes)(
        [x, *weight.pointers], [np.empty((1, 3, 40), np.float32)], 1)
    wanted = np.einsum("sgk,gnk->sgn", rounded(x), weight.value.reshape(3, 40, 64))
    assert np.abs(y - wanted).max() / np.abs(wanted).max() < 1e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("codecs", [[FP4] * 3 + [FP8] * 3, [INT4] * 6, [FP8, FP4, INT4] * 2])
def test_experts(codecs, lanes):
    rng = np.random.default_rng(4)
    experts, chosen, d, inner, limit = 5, 2, 96, 64, 3.0
    up, down = (inner, d), (d, inner)
    shapes = [(experts, *up), (experts, *up), (experts, *down), up, up, down]
    weights = [random_weight(rng, c, s, exponents=(118, 122) if c in (FP4, INT4) else (110, 114))
               for c, s in zip(codecs, shapes, strict=True)]
    x = rng.standard_normal((1, d)).astype(np.float32)
    index, gates = np.array([[3, 1]], np.int32), np.array([[0.4, 1.1]], np.float32)
    pointers = [p for w in weights for p in w.pointers]
    kernels = [expert_ffn("f", experts, chosen, d, inner, codecs, limit, 1, lanes, integers)
               for integers in ("", "maddubs")]
    results = [Compiled(kernel, lanes)([x, index, gates, *pointers],
                                       [np.empty((1, d), np.float32)], 1)[0] for kernel in kernels]
    assert not np.array_equal(*results)
    assert np.abs(results[0] - results[1]).max() < 3e-4 * np.abs(results[0]).max()


@pytest.mark.parametrize("lanes", [8, 16])
def test_nothing_is_spilled(lanes):
    """Vectors on the stack would halve the speed; a few of the set-up are no loop's."""
    kernel = linears("l", [(64, FP4), (64, INT4)], 512, 1, lanes, integers="maddubs")
    assert spills({"l": kernel.func}, OPTIONS[lanes])["l"] <= 12
