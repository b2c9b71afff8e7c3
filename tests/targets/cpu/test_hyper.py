"""Hyper-connection kernels against the numpy meaning in float64."""

import numpy as np
import pytest

from firstlight.ir import composites  # noqa: F401  (fills the op table)
from firstlight.ir.registry import lookup
from firstlight.targets.cpu.kernels.hyper import hyper_head, hyper_mix, hyper_post, hyper_pre
from support.kernel_call import LANES, MOST, Compiled, max_error, to_bf16

SHAPES = [(4, 64), (2, 13), (3, 40), (1, 9)]


def weights(rows: int, streams: int, width: int, scales: int):
    rng = np.random.default_rng(rows)
    fn = rng.standard_normal((rows, streams * width), np.float32) / 4
    base, scale = rng.standard_normal(rows, np.float32), np.full(scales, 0.7, np.float32)
    return fn, base, scale, rng.standard_normal(width).astype(np.float32)


def streams_of(tokens: int, streams: int, width: int) -> np.ndarray:
    x = np.random.default_rng(tokens).standard_normal((1, tokens, streams, width), np.float32)
    x[0, 0, 0, 0] = 1e4
    x[0, -1] *= 0 if tokens > 1 else 1
    return x


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rounds", [0, 19])
def test_pre(shape, rounds, decode_only, lanes):
    n, width = shape
    attrs = {"eps": 1e-6, "hc_eps": 1e-6, "rounds": rounds}
    kernel = Compiled(
        hyper_pre("k", streams=n, width=width, decode_only=decode_only, lanes=lanes, **attrs), lanes
    )
    w = weights((2 + n) * n, n, width, 3)
    for tokens in (1,) if decode_only else (1, 6):
        x = streams_of(tokens, n, width)
        want = lookup("hyper_pre").reference(*(a.astype(np.float64) for a in (x, *w)), **attrs)
        got = kernel([x, *w], [a.astype(np.float32) for a in want], tokens)
        for g, e in zip(got, want, strict=True):
            assert max_error(g, e) < 3e-6


@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_head_with_bf16_vectors(shape, decode_only):
    n, width = shape
    attrs = {"eps": 1e-6, "hc_eps": 1e-6}
    codecs = ("f32", "bf16", "f32", "bf16")
    kernel = Compiled(
        hyper_head("k", streams=n, width=width, codecs=codecs, decode_only=decode_only, **attrs)
    )
    fn, base, scale, norm = weights(n, n, width, 1)
    (base_bits, base), (norm_bits, norm) = to_bf16(base), to_bf16(norm)
    for tokens in (1,) if decode_only else (1, 5):
        x = streams_of(tokens, n, width)
        known = (a.astype(np.float64) for a in (x, fn, base, scale, norm))
        want = lookup("hyper_head").reference(*known, **attrs)
        (got,) = kernel([x, fn, base_bits, scale, norm_bits], [want.astype(np.float32)], tokens)
        assert max_error(got, want) < 2e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("most", MOST)
def test_post(shape, most):
    n, width = shape
    kernel = Compiled(hyper_post("k", streams=n, width=width, tokens=most))
    rng = np.random.default_rng(n)
    for tokens in (1, 3):
        x = streams_of(tokens, n, width)
        y, post, comb = (rng.standard_normal((1, tokens, *s), np.float32)
                         for s in ((width,), (n,), (n, n)))  # fmt: skip
        want = lookup("hyper_post").reference(*(a.astype(np.float64) for a in (x, y, post, comb)))
        (got,) = kernel([x, y, post, comb], [x], tokens)
        assert max_error(got, want) < 1e-6


WIDER = [*SHAPES, (4, 600), (2, 512), (3, 273)]
"""More columns than are mixed at a time, of whole blocks and not."""


def mixed(shape, tokens):
    """The operands of hyper_mix, hostile streams among them."""
    n, width = shape
    rng = np.random.default_rng(n + width)
    x = streams_of(tokens, n, width)
    y, post, comb = (rng.standard_normal((1, tokens, *s), np.float32)
                     for s in ((width,), (n,), (n, n)))  # fmt: skip
    return [x, y, post, comb, *weights((2 + n) * n, n, width, 3)]


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("decode_only", [False, True])
@pytest.mark.parametrize("shape", WIDER)
def test_mix(shape, decode_only, lanes):
    n, width = shape
    attrs = {"eps": 1e-6, "hc_eps": 1e-6, "rounds": 19}
    kernel = Compiled(
        hyper_mix("k", streams=n, width=width, decode_only=decode_only, lanes=lanes, **attrs), lanes
    )
    for tokens in (1,) if decode_only else (1, 5, 8):
        operands = mixed(shape, tokens)
        want = lookup("hyper_mix").reference(*(a.astype(np.float64) for a in operands), **attrs)
        got = kernel(operands, [a.astype(np.float32) for a in want], tokens)
        for g, e in zip(got, want, strict=True):
            assert max_error(g, e) < 3e-6


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("shape", WIDER)
def test_a_token_alone_and_among_others_has_the_same_bits(shape, lanes):
    n, width = shape
    attrs = {"streams": n, "width": width, "eps": 1e-6, "hc_eps": 1e-6, "rounds": 5}
    alone, among = (Compiled(hyper_mix("k", decode_only=one, lanes=lanes, **attrs), lanes)
                    for one in (True, False))
    operands = mixed(shape, 7)
    (x, y, post, comb), shared = operands[:4], operands[4:]
    every = among(operands, [x, y, post, comb], 7)
    for t in range(7):
        own = [a[:, t:t + 1] for a in (x, y, post, comb)]
        for got, want in zip(alone([*own, *shared], own, 1), every, strict=True):
            np.testing.assert_array_equal(got, want[:, t:t + 1])
