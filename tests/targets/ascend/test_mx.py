"""Weights in the chip's formats mean the same numbers, bit for bit."""

import json

import numpy as np
import pytest

from firstlight import targets
from firstlight.codegen.generic import generic_kernel
from firstlight.codegen.kernel import Kernel
from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.runtime.errors import FirstlightError
from firstlight.targets.ascend import mx
from firstlight.targets.ascend.emulator_build import lacking
from firstlight.targets.conform.cases import Case, f32, i32

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


def test_fp4_becomes_mxfp8_without_loss():
    random = np.random.default_rng(4)
    shape = (3, 7, 96)
    codes = random.integers(0, 256, (3, 7, 48), np.uint8)
    codes[0, 0, :16] = np.arange(16) * 17                  # every code, in both halves
    scales = random.integers(0, 255, (3, 7, 3), np.uint8)
    packed, own = mx.MxPacker().pack("mxfp8", codes, scales, GROUP_FP4, shape)
    assert same(mx.decode(packed, own), codecs.decode_weight(codes, scales, GROUP_FP4))
    for (size, dtype), array in zip(mx.MxPacker().shapes("mxfp8", GROUP_FP4, shape), (packed, own),
                                    strict=True):
        assert (size, dtype) == (array.shape, array.dtype.name)


def test_every_fp4_code_has_one_e4m3_code():
    assert same(codecs.decode_e4m3(mx.E2M1_AS_E4M3), codecs.E2M1)
    assert len(set(mx.E2M1_AS_E4M3.tolist())) == 16        # both zeros


def test_a_codec_that_a_layout_does_not_have_is_refused():
    with pytest.raises(FirstlightError, match="F477"):
        mx.MxPacker().shapes("mxfp8", "bf16", (4, 64))


def module(*types, name="expert_linear"):
    return Case(name, types).module({})


FP4_EXPERTS = module(f32(1, 1, 64), f32(3, 5, 64, codec=GROUP_FP4), i32(1, 1, 2))


def test_options_choose_the_kernels():
    op = FP4_EXPERTS["main"].ops[-1]
    target = targets.find("ascend-950pr")
    assert set(target.overrides()) == {"hybrid_attention"}
    for values, layouts, kind in (({"experts": "mxfp8"}, (None, "mxfp8", None), Kernel),
                                  ({"experts": "extern"}, (None, None, None), mx.Extern)):
        chosen = target.configured(target.chosen(values))
        kernel = chosen.overrides()["expert_linear"]("k", op, 1)
        assert type(kernel) is kind
        assert kernel.layouts == layouts
    blocks = module(f32(1, 1, 64), f32(5, 64, codec=BLOCK_FP8), name="linear")
    chosen = target.configured(target.chosen({"fp8": "mxfp8"}))
    assert chosen.overrides()["linear"]("k", blocks["main"].ops[-1], 1).layouts == (None, "mxfp8")
    assert chosen.overrides()["expert_linear"]("k", op, 1) is None
    assert target.configured(target.chosen({"chip": "Ascend950PR_9599"})).requires["chip"].endswith(
        "9599")


def test_the_vendors_op_is_listed_and_not_made(tmp_path, monkeypatch):
    monkeypatch.setattr("firstlight.targets.ascend.build.compiler", lambda: None)
    kernel = mx.extern("experts", FP4_EXPERTS["main"].ops[-1], 1)
    target = targets.find("ascend-950pr")
    written = target.build({"experts": kernel}, tmp_path, None)
    table = json.loads((tmp_path / "code/launch.json").read_text())
    assert table["modules"] == ["extern/experts.json"]
    assert table["kernels"]["experts"]["pointers"] == 5
    binding = json.loads((tmp_path / "code/extern/experts.json").read_text())
    assert (binding["op"], binding["experts"], binding["n"], binding["k"]) == (
        "npu_grouped_matmul", 3, 5, 64)
    assert "objects/experts.o" in (tmp_path / "code/notes.txt").read_text()
    assert len(written) == 4
    assert target.emulate({"experts": kernel}, tmp_path) is None


@pytest.mark.chip
@pytest.mark.skipif(bool(lacking()), reason=f"not here: {', '.join(lacking())}")
def test_experts_stored_in_either_way_give_the_same(tmp_path):
    random = np.random.default_rng(5)
    op, target = FP4_EXPERTS["main"].ops[-1], targets.find("ascend-950pr")
    codes = random.integers(0, 256, (3, 5, 32), np.uint8)
    scales = random.integers(120, 130, (3, 5, 2), np.uint8)
    x, index = random.normal(size=64).astype(np.float32), np.array([2, 0], np.int32)
    way = target.configured(target.chosen({"experts": "mxfp8"})).overrides()["expert_linear"]
    kernels = {"fp4": generic_kernel("fp4", op, FP4_EXPERTS), "mxfp8": way("mxfp8", op, 1)}
    executor = target.emulate(kernels, tmp_path)
    weight = codecs.decode_weight(codes, scales, GROUP_FP4)[index]
    for name, pair in (("fp4", (codes, scales)), ("mxfp8", mx.fp4_as_mxfp8(codes, scales))):
        got = np.zeros((2, 5), np.float32)
        executor.run(name, [x, *pair, index, got], 1)
        assert np.allclose(got, weight @ x, rtol=1e-5, atol=1e-4)
