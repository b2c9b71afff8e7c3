"""Weights in the chip's formats mean the same numbers, bit for bit."""

import numpy as np
import pytest

from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend import mx

SHAPES = ((1, 32), (5, 96), (130, 288), (257, 160), (128, 128))


def same(a, b):
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("shape", SHAPES)
def test_block_fp8_becomes_mxfp8_without_loss(shape):
    random = np.random.default_rng(shape[0])
    codes = random.integers(0, 256, shape, np.uint8)
    codes[codes & 0x7F == 0x7F] = 0x01
    grid = tuple(-(-n // 128) for n in shape)
    scales = random.integers(0, 255, grid, np.uint8)
    packed, own = mx.MxPacker().pack("mxfp8", codes, scales, BLOCK_FP8, shape)
    assert own.shape == (shape[0], shape[1] // 32)
    with np.errstate(over="ignore"):
        assert same(mx.decode(packed, own), codecs.decode_weight(codes, scales, BLOCK_FP8))


def test_rows_packed_one_after_another_are_the_rows_of_the_whole():
    random = np.random.default_rng(3)
    codes, scales = random.integers(0, 127, (300, 64), np.uint8), random.integers(
        100, 140, (3, 1), np.uint8)
    packer = mx.MxPacker()
    whole = packer.pack("mxfp8", codes, scales, BLOCK_FP8, (300, 64))
    for first, last in ((0, 100), (100, 101), (101, 256), (256, 300)):
        part = packer.pack("mxfp8", codes[first:last], scales, BLOCK_FP8, (300, 64), first)
        assert np.array_equal(part[0], whole[0][first:last])
        assert np.array_equal(part[1], whole[1][first:last])


@pytest.mark.parametrize("layout", ["mxfp8", "fp4-unpack"])
def test_fp4_keeps_its_numbers(layout):
    random = np.random.default_rng(4)
    shape = (3, 7, 96)
    codes = random.integers(0, 256, (3, 7, 48), np.uint8)
    codes[0, 0, :16] = np.arange(16) * 17                  # every code, in both halves
    scales = random.integers(0, 255, (3, 7, 3), np.uint8)
    packed, own = mx.MxPacker().pack(layout, codes, scales, GROUP_FP4, shape)
    want = np.stack([codecs.decode_weight(c, s, GROUP_FP4) for c, s in zip(codes, scales,
                                                                          strict=True)])
    got = mx.decode(packed, own) if layout == "mxfp8" else np.stack(
        [codecs.decode_weight(c, s, GROUP_FP4) for c, s in zip(packed, own, strict=True)])
    assert same(got, want)
    assert packed.nbytes == codes.nbytes * (2 if layout == "mxfp8" else 1)
    for (size, dtype), array in zip(mx.MxPacker().shapes(layout, GROUP_FP4, shape), (packed, own),
                                    strict=True):
        assert (size, dtype) == (array.shape, array.dtype.name)


def test_every_fp4_code_has_one_e4m3_code():
    assert same(codecs.decode_e4m3(mx.E2M1_AS_E4M3), codecs.E2M1)
    assert len(set(mx.E2M1_AS_E4M3.tolist())) == 16        # both zeros


def test_a_codec_that_a_layout_does_not_have_is_refused():
    with pytest.raises(FirstlightError, match="F477"):
        mx.MxPacker().shapes("fp4-unpack", BLOCK_FP8, (4, 64))
