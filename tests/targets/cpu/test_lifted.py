"""FP8 read as subnormal numbers: the same sums, to the bit, as by conversion."""

from dataclasses import replace

import numpy as np
import pytest

from firstlight.codegen.tvm_bridge import spills
from firstlight.ir.codecs import decode_weight
from firstlight.targets.cpu.kernels.layouts import pack
from firstlight.targets.cpu.kernels.linear import group_linear, linears
from support.kernel_call import LANES, OPTIONS, Compiled
from support.packed import FP4, FP8, random_weight

WAYS = ("", "lifted")


def call(kernel, lanes, x, weights, *shapes):
    """Results of a kernel for weights packed as it asks."""
    pointers = [p for w, layout in zip(weights, kernel.layouts[1:], strict=True)
                for p in pack(layout, w.codes, w.scales, w.codec, w.value.shape)]
    return Compiled(kernel, lanes)([x, *pointers], [np.empty(s, np.float32) for s in shapes],
                                   len(x))


def inputs(kind: str, k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    x = rng.standard_normal((1, k)).astype(np.float32)
    return {"normal": x, "zeros": 0 * x, "tiny": x * np.float32(1e-27),
            "huge": x * np.float32(1e28),
            "outliers": np.where(rng.random(x.shape) < 0.05, 1e6 * x, x),
            "one": np.where(np.arange(k) == k // 2, x, 0)}[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "zeros", "tiny", "huge", "outliers", "one"])
@pytest.mark.parametrize("subnormal", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_the_same_bits(kind, subnormal, lanes):
    for k in (128, 200, 512):
        rng = np.random.default_rng(k)
        weight = random_weight(rng, FP8, (40, k), exponents=(100, 140))
        if subnormal:       # only codes below 2**-6, zeros of both signs among them
            weight = replace(weight, codes=weight.codes & 0x87)
        value = decode_weight(weight.codes, weight.scales, FP8).astype(np.float64)
        x = inputs(kind, k)
        exact, lifted = (call(linears("l", [(40, FP8)], k, 1, lanes, way), lanes, x, [weight],
                              (1, 40))[0] for way in WAYS)
        assert np.array_equal(exact, lifted)
        scale = np.abs(x).astype(np.float64) @ np.abs(value).T + 1e-300
        assert (np.abs(lifted - x.astype(np.float64) @ value.T) / scale).max() < 3e-7


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("lanes", LANES)
def test_beside_other_codecs_and_in_groups(lanes, tokens):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((tokens, 160)).astype(np.float32)
    sizes = ((24, FP4), (33, FP8))
    weights = [random_weight(rng, codec, (n, 160)) for n, codec in sizes]
    runs = [call(linears("l", sizes, 160, tokens, lanes, way), lanes, x, weights,
                 *((tokens, n) for n, _ in sizes)) for way in WAYS]
    for exact, lifted in zip(*runs, strict=True):
        assert np.array_equal(exact, lifted)
    x = rng.standard_normal((tokens, 3, 64)).astype(np.float32)
    weight = random_weight(rng, FP8, (3 * 40, 64), "tile16.grouped3")
    exact, lifted = (call(group_linear("g", 3, 40, 64, FP8, tokens, lanes, way), lanes, x,
                          [weight], (tokens, 3, 40))[0] for way in WAYS)
    assert np.array_equal(exact, lifted)


@pytest.mark.parametrize("lanes", LANES)
def test_no_spills(lanes):
    kernel = linears("l", [(64, FP8)], 1024, 1, lanes, "lifted")  # of few blocks LLVM makes no loop
    assert spills({"l": kernel.func}, OPTIONS[lanes])["l"] <= 4
