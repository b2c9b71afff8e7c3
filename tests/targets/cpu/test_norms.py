"""RMSNorm and rope kernels against the numpy meaning in float64."""

import numpy as np
import pytest

from firstlight.ir import composites  # noqa: F401  (fills the op table)
from firstlight.ir.registry import lookup
from firstlight.targets.cpu.kernels.norms import norm_rope, rms_norm
from firstlight.targets.cpu.kernels.rope import rope
from support.kernel_call import LANES, MOST, Compiled, max_error, to_bf16

EPS = 1e-6
SHAPES = [(1, 8, 2), (3, 13, 2), (1, 21, 5), (16, 512, 32), (2, 64, 32), (5, 7, 1)]
CODECS = ["bf16", "bf16", "f32", None, "f16", "f16"]


def stored(values: np.ndarray, codec: str) -> tuple[np.ndarray, np.ndarray]:
    """(as stored, the float32 values it stands for)."""
    if codec == "bf16":
        return to_bf16(values)
    bits = values.astype(np.float16 if codec == "f16" else np.float32)
    return bits, bits.astype(np.float32)


def inputs(tokens: int, heads: int, width: int, pairs: int):
    rng = np.random.default_rng(tokens * 1000 + width)
    x = rng.standard_normal((1, tokens, heads, width), np.float32)
    x[0, 0, 0] *= 1e4
    x[0, -1, -1] = 0
    positions = np.array([[0, 3, 127, 65537, 1 << 20][i % 5] + i for i in range(tokens)], np.int32)
    freqs = (10000.0 ** -(np.arange(pairs) / pairs)).astype(np.float32)
    return x, positions.reshape(1, -1), freqs, rng.standard_normal(width).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("most", MOST)
def test_rope(shape, inverse, most):
    heads, width, pairs = shape
    kernel = Compiled(rope("k", heads=heads, width=width, pairs=pairs, tokens=most,
                           inverse=inverse))
    for tokens in (1, 6):
        x, positions, freqs, _ = inputs(tokens, heads, width, pairs)
        (got,) = kernel([x, positions, freqs], [x], tokens)
        want = lookup("rope").reference(x.astype(np.float64), positions, freqs, inverse=inverse)
        assert max_error(got, want) < 4e-7
        assert np.array_equal(got[..., : -2 * pairs], x[..., : -2 * pairs])


@pytest.mark.parametrize(("shape", "codec"), list(zip(SHAPES, CODECS, strict=True)))
@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("most", MOST)
def test_norm_and_norm_rope(shape, codec, lanes, most):
    heads, width, pairs = shape
    options = {"heads": heads, "width": width, "eps": EPS, "weight": codec, "tokens": most,
               "lanes": lanes}
    norm = Compiled(rms_norm("k", **options), lanes)
    both = Compiled(norm_rope("k", pairs=pairs, **options), lanes)
    for tokens in (1, 6):
        x, positions, freqs, w = inputs(tokens, heads, width, pairs)
        bits, values = stored(w, codec or "f32")
        given, known = ([], []) if codec is None else ([bits], [values.astype(np.float64)])
        (got,) = norm([x, *given], [x], tokens)
        want = lookup("rms_norm").reference(x.astype(np.float64), *known, eps=EPS)
        assert max_error(got, want) < 4e-7
        (got,) = both([x, *given, positions, freqs], [x], tokens)
        want = lookup("rope").reference(want, positions, freqs, inverse=False)
        assert max_error(got, want) < 6e-7
