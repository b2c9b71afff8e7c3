"""Weights in another codec: what pieces give is what the whole matrix gives, also in a model."""

import json
from pathlib import Path

import numpy as np
import pytest

from firstlight.codegen.requantize import Requantized
from firstlight.comparison import compare, open_sides, token_ids
from firstlight.compiler import CompileOptions, compile_checkpoint
from firstlight.ir.codecs import decode_weight
from firstlight.ir.scales import quantize
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4, GROUP_INT4, GROUP_INT8
from firstlight.runtime.manifest import read_manifest
from support.random_models import random_config, random_tensors, write_checkpoint


class Stored:
    """Two matrices in bf16."""

    codec = "bf16"

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.codes = np.random.default_rng(1).integers(0x3E00, 0x3F80, shape, np.uint16)

    def pieces(self, rows: int):
        for matrix in self.codes.reshape(-1, *self.shape[-2:]):
            for first in range(0, len(matrix), rows):
                yield first, matrix[first : first + rows], None


@pytest.mark.parametrize("codec", [BLOCK_FP8, GROUP_FP4, GROUP_INT4, GROUP_INT8, "bf16", "f32"])
@pytest.mark.parametrize("rows", [128, 256, 1 << 62])
def test_pieces(codec, rows) -> None:
    source = Stored((2, 300, 96))
    got, wanted = [], []
    for first, codes, scales in Requantized(source, codec).pieces(rows):
        got.append(decode_weight(codes, scales, codec, first if codec == BLOCK_FP8 else 0))
    for matrix in source.codes:
        values = decode_weight(matrix, None, "bf16")
        wanted.append(decode_weight(*quantize(values, codec), codec))
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(wanted))


def test_importance_has_the_columns_of_the_weight() -> None:
    source = Stored((64, 96))
    weights = np.linspace(0.01, 9, 96, dtype=np.float32)
    ((_, codes, _),) = Requantized(source, GROUP_INT4, weights).pieces(128)
    blind = next(Requantized(source, GROUP_INT4).pieces(128))[1]
    assert not np.array_equal(codes, blind)


@pytest.mark.parametrize("policy", [
    "experts=int4-g32,attn=int8-g32,head=int8-g32,embedding=int4-g32,compressor=fp8", "mxfp4"])
def test_a_quantized_model_is_its_own_interpretation(policy: str, tmp_path: Path) -> None:
    """The artifact computes what the IR means with weights of that precision, not as shipped."""
    config = random_config(5, layers="ch", csa=4, hca=8, hidden_size=96, moe_intermediate_size=32,
                           num_hash_layers=1)  # fmt: skip
    checkpoint = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, 5))
    for name, chosen in (("quantized", policy), ("shipped", "shipped")):
        compile_checkpoint(checkpoint, tmp_path / name,
                           CompileOptions(context=48, chunk=16, quantize=chosen))
    assert read_manifest(tmp_path / "quantized").document["quantize"] == policy
    sides = {"interpreter": True, str(tmp_path / "shipped"): False}
    for other, equal in sides.items():
        with open_sides([str(tmp_path / "quantized"), other], checkpoint, threads=1) as opened:
            report = compare(*opened, token_ids(opened, None, None))
        assert (report.first is None) == equal


def test_four_bits_fit_eight_exactly() -> None:
    """Steps of e2m1 under a power of two are integers under another."""
    rng = np.random.default_rng(3)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    groups = rng.choice(values, (64, 8, 32)) * rng.choice([-1, 1], (64, 8, 32))
    w = (groups * np.exp2(rng.integers(-20, 20, (64, 8, 1)))).astype(np.float32).reshape(64, 256)
    assert np.array_equal(decode_weight(*quantize(w, GROUP_INT8), GROUP_INT8), w)


def test_the_report_says_by_role_what_rounding_lost(tmp_path: Path) -> None:
    config = random_config(8, layers="ch", csa=4, hca=8, hidden_size=96)
    write_checkpoint(tmp_path / "in", config, random_tensors(config, 9))
    rows = {}
    for threads in (1, 2):
        out = tmp_path / f"out{threads}"
        compile_checkpoint(tmp_path / "in", out, CompileOptions(
            quantize="attn=int8-g32,head=int4-g32", context=64, threads=threads))
        rows[threads] = json.loads((out / "report.json").read_text())["weights"]
    assert rows[1] == rows[2]
    lost = {row["role"]: row["rms_error"] for row in rows[1]}
    assert 0.001 < lost.pop("attn") < 0.01
    assert 0.03 < lost.pop("head") < 0.12
    assert set(lost.values()) == {0.0}
    stored = {row["role"]: row["stored"] for row in rows[1]}
    assert stored["head"] == GROUP_INT4


def test_what_was_lost_counts_one_reading() -> None:
    source = Requantized(Stored((2, 256, 96)), GROUP_INT4)
    lost = []
    for _ in range(2):
        list(source.pieces(128))
        lost.append((source.lost.squares, source.lost.errors))
    assert lost[0] == lost[1]
    assert 0 < source.lost.rms < 0.2
