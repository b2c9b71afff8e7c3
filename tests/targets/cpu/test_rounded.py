"""Products in integers: exact but for the rounding of activations, alone and in chunks alike."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.tvm_bridge import compile_module
from firstlight.ir.codecs import decode_weight
from firstlight.targets.cpu.kernels.experts import expert_ffn
from firstlight.targets.cpu.kernels.layouts import PLAIN, pack
from firstlight.targets.cpu.kernels.linear import group_linear, linears
from firstlight.targets.cpu.kernels.rounded import MOST
from support.kernel_call import OPTIONS, VNNI, Compiled
from support.packed import FP4, FP8, INT4, INT8, random_weight

HERE = set(Path("/proc/cpuinfo").read_text().split())
WAYS = {"avx2": (8, 8, "words"), "avx512": (16, 16, "words"), "vnni": (16, VNNI, "vnni")}
"""lanes, a key of OPTIONS, and one of activations.WAYS."""
RUNS = ["avx2", *(["avx512"] if "avx512vl" in HERE else []),
        *(["vnni"] if {"avx512_vnni", "avx512vbmi"} <= HERE else [])]
ways = pytest.mark.parametrize("way", RUNS)
CODECS = (FP4, INT4, INT8)
DEPTH = 128


def rounded(x: np.ndarray) -> np.ndarray:
    """What the kernels make of x [.., K]: 16-bit integers times a step for each 128 columns."""
    padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % DEPTH)])
    blocks = padded.reshape(*x.shape[:-1], -1, DEPTH).astype(np.float32)
    top = np.maximum(np.abs(blocks).max(-1, keepdims=True), np.float32(1e-30))
    whole = np.rint(blocks.astype(np.float64) * (np.float32(MOST) / top))
    values = whole * (top * np.float32(1 / MOST)).astype(np.float64)
    return values.reshape(padded.shape)[..., : x.shape[-1]]


def inputs(kind: str, rows: int, k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    x = rng.standard_normal((rows, k)).astype(np.float32)
    return {"normal": x, "zeros": 0 * x, "tiny": x * np.float32(1e-28),
            "huge": x * np.float32(1e20), "one sided": np.abs(x) + 1,
            "extremes": np.sign(x) * np.float32(3),
            "outliers": np.where(rng.random(x.shape) < 0.05, 1e4 * x, x)}[kind]


@functools.cache
def compiled(way, segments, k, tokens):
    lanes, options, integers = WAYS[way]
    return Compiled(linears("l", segments, k, tokens, lanes, integers), options)


def product(way, segments, k, x, pointers, tokens):
    results = [np.empty((len(x), n), np.float32) for n, _ in segments]
    return compiled(way, tuple(segments), k, tokens)([x, *pointers], results, len(x))


@ways
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", ["normal", "zeros", "tiny", "huge", "one sided", "extremes",
                                  "outliers"])
def test_only_the_activations_are_rounded(way, codec, kind):
    """Integer sums are exact: against rounded activations nothing but float32 sums is left; and
    the tokens of a chunk have the bits of tokens alone."""
    for k in (32, 130, 416):
        weight = random_weight(np.random.default_rng(k), codec, (40, k))
        x = inputs(kind, 19, k)
        (y,) = product(way, [(40, codec)], k, x, weight.pointers, 32)
        scale = np.abs(rounded(x)) @ np.abs(weight.value).T + 1e-30
        assert (np.abs(y - rounded(x) @ weight.value.T) / scale).max() < 3e-7
        for row in (0, 7, 18):
            (alone,) = product(way, [(40, codec)], k, x[row : row + 1], weight.pointers, 1)
            assert np.array_equal(alone[0], y[row])
        blocks = np.pad(np.abs(x), ((0, 0), (0, -k % DEPTH))).reshape(19, -1, DEPTH).max(-1)
        most = np.repeat(blocks, DEPTH, -1)[:, :k] * (0.5 / MOST) * 1.01 + 1e-30
        assert (np.abs(rounded(x) - x) <= most).all()


@ways
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("tokens", [1, 2])
def test_the_largest_sums_fit(way, codec, tokens):
    """Every weight and every activation at its largest, of equal and of alternating signs."""
    k = 256
    for byte in {FP4: (0x77, 0xFF), INT4: (0x77, 0x88), INT8: (0x7F, 0x80)}[codec]:
        weight = random_weight(np.random.default_rng(1), codec, (16, k))
        weight.codes[...] = byte
        packed = [p for p in pack(PLAIN, weight.codes, weight.scales, codec, (16, k))
                  if p is not None]
        value = decode_weight(weight.codes, weight.scales, codec).astype(np.float64)
        for signs in ([1.0], [-1.0], [1.0, -1.0], [1.0, 1.0, -1.0, -1.0]):
            x = np.resize(signs, (tokens, k)).astype(np.float32)
            (y,) = product(way, [(16, codec)], k, x, packed, tokens)
            scale = np.abs(x) @ np.abs(value).T
            assert (np.abs(y - x @ value.T) / scale).max() < 3e-7


@ways
@pytest.mark.parametrize("tokens", [1, 11])
def test_segments_and_groups(way, tokens):
    """Weights of other codecs beside them stay exact; groups of rows have vectors of their own."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((tokens, 160)).astype(np.float32)
    segments = [(24, FP4), (33, FP8), (16, INT4), (50, INT8), (8, "bf16")]
    weights = [random_weight(rng, codec, (n, 160)) for n, codec in segments]
    ys = product(way, segments, 160, x, [p for w in weights for p in w.pointers], tokens)
    for y, weight, (_, codec) in zip(ys, weights, segments, strict=True):
        seen = rounded(x) if codec in CODECS else x.astype(np.float64)
        scale = np.abs(x) @ np.abs(weight.value).T
        assert (np.abs(y - seen @ weight.value.T) / scale).max() < 1e-6, codec
    x = rng.standard_normal((tokens, 3, 64)).astype(np.float32)
    weight = random_weight(rng, FP4, (3 * 40, 64), "tile16.grouped3")
    lanes, options, integers = WAYS[way]
    (y,) = Compiled(group_linear("g", 3, 40, 64, FP4, tokens, lanes, integers), options)(
        [x, *weight.pointers], [np.empty((tokens, 3, 40), np.float32)], tokens)
    wanted = np.einsum("sgk,gnk->sgn", rounded(x), weight.value.reshape(3, 40, 64))
    assert np.abs(y - wanted).max() / np.abs(wanted).max() < 1e-6


@ways
@pytest.mark.parametrize("codecs", [[FP4] * 3 + [FP8] * 3, [INT4] * 6, [FP8, FP4, INT4] * 2,
                                    [INT8, INT8, FP4] * 2])
@pytest.mark.parametrize("inner", [64, 48])
def test_experts(way, codecs, inner):
    """Close to float32, and nearly the same alone and in a chunk, also where an expert is empty.

    What FP8 weights give is summed in another order there, and may be rounded to another integer.
    """
    rng = np.random.default_rng(4)
    experts, chosen, d, limit = 5, 2, 96, 3.0
    up, down = (inner, d), (d, inner)
    shapes = [(experts, *up), (experts, *up), (experts, *down), up, up, down]
    weights = [random_weight(rng, c, s, exponents=(110, 114) if c == FP8 else (118, 122))
               for c, s in zip(codecs, shapes, strict=True)]
    x = rng.standard_normal((9, d)).astype(np.float32)
    index = np.array([rng.permutation(experts - 1)[:chosen] for _ in x], np.int32)
    gates = rng.random((9, chosen), np.float32)
    pointers = [p for w in weights for p in w.pointers]

    lanes, options, integers = WAYS[way]

    def run(tokens, rows, integers):
        kernel = expert_ffn("f", experts, chosen, d, inner, codecs, limit, tokens, lanes, integers)
        return Compiled(kernel, options)([x[rows], index[rows], gates[rows], *pointers],
                                      [np.empty((len(x[rows]), d), np.float32)], len(x[rows]))[0]

    exact, chunk = run(16, slice(None), ""), run(16, slice(None), integers)
    assert not np.array_equal(exact, chunk)
    assert np.abs(exact - chunk).max() < 3e-4 * np.abs(exact).max()
    for row in (0, 8):
        alone = run(1, slice(row, row + 1), integers)
        assert np.abs(alone[0] - chunk[row]).max() < (1e-4 if FP8 in codecs[:3] else 1e-6) * np.abs(
            exact).max()


@ways
@pytest.mark.parametrize("codec", CODECS)
def test_nan_and_infinity_do_not_reach_other_tokens(way, codec):
    """What a token with them gets is not said; its neighbours do not notice."""
    weight = random_weight(np.random.default_rng(1), codec, (40, 160))
    x = inputs("normal", 9, 160)
    (clean,) = product(way, [(40, codec)], 160, x, weight.pointers, 32)
    x[3, 7], x[5, 9] = np.nan, np.inf
    (y,) = product(way, [(40, codec)], 160, x, weight.pointers, 32)
    others = [r for r in range(9) if r not in (3, 5)]
    assert np.array_equal(y[others], clean[others])


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("tokens", [1, 64])
@pytest.mark.parametrize("codec", CODECS)
def test_instructions_and_spills(way, tokens, codec):
    """The instructions are there, and the innermost loops keep all vectors in registers."""
    lanes, options, integers = WAYS[way]
    one, many = {"vnni": ("vpdpbusd", "vpdpwssd")}.get(way, ("vpmaddubsw", "vpmaddwd"))
    product = many if tokens > 1 or (codec == INT8 and way != "vnni") else one
    kernel = linears("l", [(64, codec)], 512, tokens, lanes, integers)
    text = compile_module({"l": kernel.func}, OPTIONS[options]).inspect_source("asm")
    found = innermost_loops(text, product)
    assert found
    for loop in found:
        assert not [line for line in loop if re.search(r"%[yz]mm", line) and "(%rsp" in line]


def innermost_loops(text: str, instruction: str) -> list[list[str]]:
    """Lines of the loops with an instruction that have no smaller loop with it inside."""
    lines = text.splitlines()
    labels = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\.LBB\w+:", line)}
    jumps = ((labels.get(m[1], i), i) for i, line in enumerate(lines)
             if (m := re.fullmatch(r"\tj\w+\t(\.LBB\w+)", line)))
    spans = [(a, b) for a, b in jumps if a < b and any(instruction in x for x in lines[a:b])]
    return [lines[a:b] for a, b in spans
            if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)]
