"""The random models and their own codecs: what the other tests stand on."""

import json

import numpy as np
import pytest
from safetensors import safe_open

from support.random_models import (
    dequantise,
    digest,
    random_config,
    random_tensors,
    write_checkpoint,
)
from support.stored import E4M3, store_bf16, store_fp4, store_fp8

RELEASED = random_config(
    0, layers="wch", hidden_size=160, moe_intermediate_size=32, num_hash_layers=1
)


def test_same_seed_same_bytes():
    """Recorded once: a change here means every golden vector has to be recorded again."""
    config = random_config(3, layers="wch")
    assert digest(random_tensors(config, 3)) == digest(random_tensors(config, 3))
    assert digest(random_tensors(config, 3)) != digest(random_tensors(config, 4))


def test_released_storage():
    """Dtypes, shapes and scale grids of specification 3.1 and 3.2."""
    tensors = random_tensors(RELEASED, 1)
    d, i = 160, 32
    assert tensors["layers.0.ffn.experts.0.w1.weight"].dtype == "I8"
    assert tensors["layers.0.ffn.experts.0.w1.weight"].data.shape == (i, d // 2)
    assert tensors["layers.0.ffn.experts.0.w1.scale"].data.shape == (i, d // 32)
    assert tensors["layers.0.attn.wo_b.weight"].dtype == "F8_E4M3"
    assert tensors["layers.0.attn.wo_b.scale"].data.shape[0] == 2
    assert tensors["layers.1.attn.compressor.wkv.weight"].dtype == "BF16"
    assert tensors["layers.1.attn.compressor.ape"].dtype == "F32"
    assert any(name.startswith("mtp.0.") for name in tensors)
    table = tensors["layers.0.ffn.gate.tid2eid"]
    assert table.dtype == "I64"
    assert all(len(set(row)) == len(row) for row in table.data.tolist())


def test_e4m3_table_is_that_of_ml_dtypes():
    """A second opinion on the 256 codes."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs the [compile] extra")
    codes = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn)
    np.testing.assert_array_equal(E4M3, codes.astype(np.float32))


@pytest.mark.parametrize("store", [store_fp8, store_fp4])
def test_stored_values_are_near_and_exact_the_second_time(store):
    """Rounding is at most half a step, and rounding a rounded matrix changes nothing."""
    w = np.random.default_rng(0).standard_normal((130, 160)).astype(np.float32)
    codes, scale = store(w)
    once = dequantise({"x.weight": codes, "x.scale": scale})["x.weight"]
    codes, scale = store(once)
    again = dequantise({"x.weight": codes, "x.scale": scale})["x.weight"]
    assert np.abs(once - w).max() < (0.13 if store is store_fp8 else 0.6)
    np.testing.assert_array_equal(again, once)


def test_bf16_rounds_to_even():
    """1 + 2^-8 is half-way between two codes."""
    got = store_bf16(np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -2], np.float32)).data
    assert got.tolist() == [0x3F80, 0x3F80, 0x3F82, 0xC000]


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("scheme", ["released", "module", "saved"])
def test_the_safetensors_package_reads_what_we_write(scheme, shards, tmp_path):
    """Names once over all shards, and an index that names every tensor."""
    tensors = random_tensors(RELEASED, 2)
    folder = write_checkpoint(tmp_path / "c", RELEASED, tensors, scheme, shards)
    where = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as opened:
            where |= dict.fromkeys(opened.keys(), file.name)
    if shards > 1:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["weight_map"] == where
    if scheme == "released":
        assert set(where) == set(tensors)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "deepseek_v4"
