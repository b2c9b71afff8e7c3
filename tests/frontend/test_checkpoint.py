"""Checkpoint folders: three naming schemes, every codec, full size, and every way to be wrong."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from firstlight.frontend.checkpoint import (
    Checkpoint,
    StackedRef,
    expected_tensors,
    read_checkpoint,
    read_config,
)
from firstlight.frontend.names import canonical
from firstlight.runtime.errors import FirstlightError
from support.checkpoint_writer import write_safetensors
from support.random_models import (
    Stored,
    dequantise,
    random_config,
    random_tensors,
    write_checkpoint,
)
from support.sparse import FLASH, PRO, write_sparse

CONFIG = random_config(
    7, layers="wch", csa=4, hca=8, hidden_size=64, moe_intermediate_size=32, n_routed_experts=3,
    num_experts_per_tok=2, num_hash_layers=1, q_lora_rank=40)
TENSORS = random_tensors(CONFIG, 1)
INDEX = "model.safetensors.index.json"
Tensors = dict[str, Stored]


def values(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Everything decoded, experts one by one under their released names."""
    out = {}
    for name, ref in checkpoint.tensors.items():
        for one in ref if isinstance(ref, StackedRef) else (ref,):
            out[one.name] = one.decode()
        assert ref.decode().shape == ref.shape
        assert name == ref.name
    return out


def same(checkpoint: Checkpoint, tensors: Tensors) -> None:
    want = {k: v for k, v in dequantise(tensors).items() if not k.startswith("mtp.")}
    got = values(checkpoint)
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("codecs", ["released", "fp8", "bf16", "f16", "f32"])
@pytest.mark.parametrize("scheme", ["released", "module", "saved"])
def test_every_scheme_and_codec(tmp_path: Path, scheme: str, codecs: str) -> None:
    tensors = random_tensors(CONFIG, 2, codecs)
    write_checkpoint(tmp_path, CONFIG, tensors, scheme, shards=2)
    checkpoint = read_checkpoint(tmp_path)
    same(checkpoint, tensors)
    assert len(checkpoint.shards) == 2
    assert all("mtp" in name for name in checkpoint.ignored)
    assert bool(checkpoint.ignored) == (scheme == "released")
    assert checkpoint.tokenizer_path is None
    assert checkpoint.generation_config is None


def test_trained_example(tiny_checkpoint: Path) -> None:
    checkpoint = read_checkpoint(tiny_checkpoint)
    files = [load_bytes(p) for p in sorted(tiny_checkpoint.glob("*.safetensors"))]
    raw = {name: data for file in files for name, data in file.items()}
    assert len(raw) == 932
    for ref in checkpoint.tensors.values():
        for one in ref if isinstance(ref, StackedRef) else (ref,):
            assert one.codes().tobytes() == raw.pop(one.name)
            if one.codec.startswith("fp"):
                scales = one.scales()
                assert scales is not None
                assert scales.tobytes() == raw.pop(one.name.removesuffix("weight") + "scale")
    assert raw.keys() == checkpoint.ignored.keys()
    assert checkpoint.tensors["layers.1.attn.wq_b.weight"].codec == "fp8e4m3/128x128:ue8m0"
    w1 = checkpoint.tensors["layers.1.ffn.experts.w1.weight"]
    assert (w1.codec, w1.shape) == ("fp4e2m1/32:ue8m0", (16, 128, 256))
    assert w1.codes().shape == (16, 128, 128)
    assert checkpoint.tensors["layers.0.ffn.gate.tid2eid"].codec == "i64"
    assert checkpoint.tokenizer_path == tiny_checkpoint / "tokenizer.json"
    assert checkpoint.generation_config is not None
    assert checkpoint.generation_config["pad_token_id"] == 2


def load_bytes(path: Path) -> dict[str, bytes]:
    """A file's tensors as the `safetensors` package cuts them out."""
    import safetensors

    return {name: bytes(entry["data"]) for name, entry in
            safetensors.deserialize(path.read_bytes())}


def test_codecs_are_what_is_stored_not_what_is_usual(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIG, random_tensors(CONFIG, 2, "bf16"))
    checkpoint = read_checkpoint(tmp_path)
    assert {ref.codec for ref in checkpoint.tensors.values()} == {"bf16", "i64"}
    expected = expected_tensors(read_config(tmp_path))
    assert list(expected) == list(checkpoint.tensors)
    assert all(expected[k].shape == ref.shape for k, ref in checkpoint.tensors.items())


def test_rows(tmp_path: Path) -> None:
    config = random_config(3, layers="c", hidden_size=160, moe_intermediate_size=160,
                           q_lora_rank=300, vocab_size=100)
    write_checkpoint(tmp_path, config, random_tensors(config, 1))
    checkpoint = read_checkpoint(tmp_path)
    for name in ("embed.weight", "layers.0.attn.wq_a.weight", "layers.0.attn_norm.weight"):
        ref = checkpoint.tensors[name]
        whole = ref.decode()
        for rows in (slice(0, 1), slice(7, 90), slice(99, None), slice(40, 40), slice(100)):
            np.testing.assert_array_equal(ref.decode(rows), whole[rows])
            assert len(ref.codes(rows)) == len(whole[rows])
    late = checkpoint.tensors["layers.0.attn.wq_a.weight"]
    np.testing.assert_array_equal(late.decode(slice(130, 290)), late.decode()[130:290])
    expert = checkpoint.tensors["layers.0.ffn.experts.w2.weight"][1]
    np.testing.assert_array_equal(expert.decode(slice(5, 50)), expert.decode()[5:50])
    expert.will_need()
    expert.release(slice(3, 70))
    expert.release()
    assert expert.decode().shape == (160, 160)


def test_without_an_index(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIG, TENSORS, shards=3)
    (tmp_path / INDEX).unlink()
    same(read_checkpoint(tmp_path), TENSORS)
    same(read_checkpoint(tmp_path / "config.json"), TENSORS)


def test_float_scales_that_are_powers_of_two(tmp_path: Path) -> None:
    older = {}
    for name, (dtype, data) in TENSORS.items():
        if name.endswith(".scale"):
            name = name.removesuffix("scale") + "weight_scale_inv"
            dtype, data = "F32", np.exp2(data.astype(np.float32) - 127)
        older[name] = Stored(dtype, data)
    write_checkpoint(tmp_path, CONFIG, older)
    same(read_checkpoint(tmp_path), TENSORS)
    name = "layers.0.attn.wq_a.weight_scale_inv"
    write_checkpoint(tmp_path, CONFIG, older | {name: Stored("F32", older[name].data * 1.5)})
    with pytest.raises(FirstlightError, match="no powers of two") as caught:
        read_checkpoint(tmp_path).tensors["layers.0.attn.wq_a.weight"].scales()
    assert caught.value.code == "F131"


def test_table_values_are_checked_when_read(tmp_path: Path) -> None:
    name = "layers.0.ffn.gate.tid2eid"
    table = TENSORS[name].data.copy()
    table[5, 1] = 3
    write_checkpoint(tmp_path, CONFIG, TENSORS | {name: Stored("I64", table)})
    ref = read_checkpoint(tmp_path).tensors[name]
    for read in (ref.codes, ref.decode):
        with pytest.raises(FirstlightError, match="one of 3 experts") as caught:
            read()
        assert caught.value.code == "F132"


def test_int32_table(tmp_path: Path) -> None:
    name = "layers.0.ffn.gate.tid2eid"
    table = TENSORS[name].data.astype(np.int32)
    write_checkpoint(tmp_path, CONFIG, TENSORS | {name: Stored("I32", table)})
    ref = read_checkpoint(tmp_path).tensors[name]
    assert ref.codec == "i32"
    np.testing.assert_array_equal(ref.decode(), table)


def test_hub_cache_of_links_is_fine_and_other_links_are_not(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123abcd"
    blobs.mkdir()
    write_checkpoint(snapshot, CONFIG, TENSORS, shards=2)
    for i, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(f"../../blobs/{i}")
    same(read_checkpoint(snapshot), TENSORS)
    other = tmp_path / "other"
    other.mkdir()
    for path in snapshot.iterdir():
        (other / path.name).symlink_to(path)
    assert refused(other) == "F112"


def test_canonical_names() -> None:
    assert canonical("model.layers.3.self_attn.wq_a.weight_scale_inv") == "layers.3.attn.wq_a.scale"
    assert canonical("layers.0.mlp.gate.e_score_correction_bias") == "layers.0.ffn.gate.bias"
    assert canonical("layers.0.attn_hc.scale") == "layers.0.hc_attn_scale"
    assert canonical("layers.2.mlp.experts.7.up_proj.weight") == "layers.2.ffn.experts.7.w3.weight"
    assert canonical("model.norm.weight") == "norm.weight"
    assert canonical("something.else") == "something.else"
    for name in TENSORS:
        assert canonical(name) == name
        assert canonical("model." + name) == name


# -- wrong folders --------------------------------------------------------------------------------


def refused(folder: Path, code: str | None = None) -> str:
    with pytest.raises(FirstlightError) as caught:
        read_checkpoint(folder)
    text = str(caught.value)
    assert len(text.splitlines()) == 4
    assert len(text) < 2000
    text.encode()
    if code:
        assert caught.value.code == code, text
    return caught.value.code


def _changed(**changes: Stored | None) -> Tensors:
    return {k: v for k, v in (TENSORS | changes).items() if v is not None}


def zeros(dtype: str, *shape: int) -> Stored:
    kind = {"F32": "f4", "BF16": "u2", "I64": "i8", "F64": "f8"}.get(dtype, "u1")
    return Stored(dtype, np.zeros(shape, kind))


WQ = "layers.1.attn.wq_a"
EXPERT = "layers.1.ffn.experts.2.w1"

WRONG_TENSORS: dict[str, tuple[str, Tensors]] = {
    "missing": ("F116", _changed(**{"norm.weight": None})),
    "missing expert": ("F116", _changed(**{EXPERT + ".weight": None})),
    "missing layer": ("F116", {k: v for k, v in TENSORS.items() if "layers.2." not in k}),
    "extra layer": ("F117", _changed(**{"layers.3.attn_norm.weight": zeros("BF16", 64)})),
    "extra expert": ("F117", _changed(**{EXPERT.replace("2.w1", "3.w1.weight"):
                                         zeros("F32", 32, 64)})),
    "unknown": ("F117", _changed(**{"rogue": zeros("F32", 1)})),
    "hash and bias": ("F117", _changed(**{"layers.0.ffn.gate.bias": zeros("F32", 3)})),
    "leading zero": ("F117", _changed(**{"layers.01.attn_norm.weight": zeros("BF16", 64)})),
    "scale without need": ("F117", _changed(**{"embed.scale": zeros("F8_E8M0", 1, 1)})),
    "shape": ("F118", _changed(**{"norm.weight": zeros("BF16", 63)})),
    "transposed": ("F118", _changed(**{WQ + ".weight": zeros("F8_E4M3", 64, 40)})),
    "unpacked fp4": ("F118", _changed(**{EXPERT + ".weight": zeros("I8", 32, 64)})),
    "table shape": ("F118", _changed(**{"layers.0.ffn.gate.tid2eid": zeros("I64", 5, 2)})),
    "float64": ("F119", _changed(**{"norm.weight": zeros("F64", 64)})),
    "integer weights": ("F119", _changed(**{"embed.weight": zeros(
        "I64", CONFIG["vocab_size"], 64)})),
    "fp8 vector": ("F119", _changed(**{"norm.weight": zeros("F8_E4M3", 64)})),
    "float table": ("F119", _changed(**{"layers.0.ffn.gate.tid2eid": zeros(
        "F32", CONFIG["vocab_size"], 2)})),
    "mixed experts": ("F119", _changed(**{EXPERT + ".weight": zeros("F32", 32, 64),
                                          EXPERT + ".scale": None})),
    "no scale": ("F130", _changed(**{WQ + ".scale": None})),
    "no fp4 scale": ("F130", _changed(**{EXPERT + ".scale": None})),
    "scale grid": ("F130", _changed(**{WQ + ".scale": zeros("F8_E8M0", 2, 1)})),
    "scale of 32x32 blocks": ("F130", _changed(**{WQ + ".scale": zeros("F8_E8M0", 2, 2)})),
    "fp4 scale grid": ("F130", _changed(**{EXPERT + ".scale": zeros("F8_E8M0", 32, 1)})),
    "scale dtype": ("F130", _changed(**{WQ + ".scale": zeros("F8_E5M2", 1, 1)})),
    "two names": ("F115", _changed(**{"model.norm.weight": zeros("BF16", 64)})),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_wrong_tensors(case: str, tmp_path: Path) -> None:
    code, tensors = WRONG_TENSORS[case]
    refused(write_checkpoint(tmp_path, CONFIG, tensors, shards=2), code)


def _index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def _points_to(name: str) -> Callable[[Path], object]:
    return lambda f: _index(f, lambda m: m.update({"norm.weight": name}))


def _cut(folder: Path) -> None:
    path = folder / "model-00002-of-00002.safetensors"
    os.truncate(path, path.stat().st_size - 5)


def _duplicate(folder: Path) -> None:
    norm = {"norm.weight": TENSORS["norm.weight"]}
    write_safetensors(folder / "extra.safetensors", norm)
    _index(folder, lambda m: m.update({"norm.weight": "extra.safetensors"}))


def _link_out(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.rename(folder.parent / "elsewhere.safetensors")
    path.symlink_to(folder.parent / "elsewhere.safetensors")


def _loop(folder: Path) -> None:
    path = folder / "model-00001-of-00002.safetensors"
    path.unlink()
    path.symlink_to(path)


def _only_pickled(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


WRONG_FOLDERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "shard absent": ("F113", lambda f: (f / "model-00001-of-00002.safetensors").unlink()),
    "absent without index": ("F113", lambda f: (
        (f / INDEX).unlink(), (f / "model-00001-of-00002.safetensors").unlink())),
    "named, absent": ("F113", _points_to("model-00003-of-00002.safetensors")),
    "link loop": ("F113", _loop),
    "cut short": ("F121", _cut),
    "parent": ("F112", _points_to("../model.safetensors")),
    "hidden parent": ("F112", _points_to("a/../../model.safetensors")),
    "absolute": ("F112", _points_to("/etc/passwd")),
    "other file": ("F112", _points_to("config.json")),
    "backslash": ("F112", _points_to("..\\model.safetensors")),
    "zero byte": ("F112", _points_to("a\0.safetensors")),
    "surrogate": ("F112", _points_to("\ud800.safetensors")),
    "very long": ("F112", _points_to("/" + "x" * 100_000)),
    "name too long": ("F112", _points_to("x" * 100_000 + ".safetensors")),
    "link out": ("F112", _link_out),
    "pickle in index": ("F110", _points_to("pytorch_model-1.bin")),
    "only pickled": ("F110", _only_pickled),
    "no weights": ("F110", lambda f: [p.unlink() for p in f.glob("*.safetensors*")]),
    "index lies": ("F114", lambda f: _index(
        f, lambda m: m.update({"norm.weight": m["embed.weight"], "x": m["norm.weight"]}))),
    "duplicate": ("F115", _duplicate),
    "index no JSON": ("F111", lambda f: (f / INDEX).write_text("{")),
    "index deep": ("F111", lambda f: (f / INDEX).write_text("[" * 100_000)),
    "index without map": ("F111", lambda f: (f / INDEX).write_text("{}")),
    "map of numbers": ("F111", lambda f: _index(f, lambda m: m.update({"a": 1}))),
    "generation config": ("F101", lambda f: (f / "generation_config.json").write_text("[")),
}


@pytest.mark.parametrize("case", WRONG_FOLDERS)
def test_wrong_folders(case: str, tmp_path: Path) -> None:
    code, spoil = WRONG_FOLDERS[case]
    folder = write_checkpoint(tmp_path / "checkpoint", CONFIG, TENSORS, shards=2)
    spoil(folder)
    refused(folder, code)


def test_pickles_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", CONFIG, TENSORS)
    _only_pickled(folder)
    with pytest.raises(FirstlightError, match="runs whatever code"):
        read_checkpoint(folder)


def test_stacked_experts_of_a_wrong_shape_or_dtype(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIG, TENSORS, "module")
    file = tmp_path / "model.safetensors"
    arrays = load_file(file)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    for array, dtype, code in ((arrays[name][:, :-1], "F32", "F118"), (
            arrays[name].view(np.int32), "I32", "F119")):
        tags = {"float32": "F32", "int64": "I64"}
        stored = {k: Stored(tags[v.dtype.name], v) for k, v in arrays.items()}
        write_safetensors(file, stored | {name: Stored(dtype, array)})
        refused(tmp_path, code)


def test_missing_tensors_are_counted(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, CONFIG, {k: v for k, v in TENSORS.items() if "experts.1." not in k})
    with pytest.raises(FirstlightError, match=re.escape("(and 8 more)")):
        read_checkpoint(tmp_path)


# -- full size ------------------------------------------------------------------------------------

PEAK = r"int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) / 1024"
"""MiB of this program alone: what getrusage gives counts the parent's memory, too."""

MEASURE = f"""
import re, sys, time
from firstlight.frontend.checkpoint import read_checkpoint
start = time.monotonic()
c = read_checkpoint(sys.argv[1])
seconds = time.monotonic() - start
peak = {PEAK}
experts = c.tensors["layers.2.ffn.experts.w2.weight"]
assert not experts[100].codes().any() and not c.tensors["head.weight"].decode(slice(5, 9)).any()
print(len(c.tensors), sum(1 for _ in c.ignored), seconds, peak)
"""


@pytest.mark.parametrize(("config", "tensors", "size", "shards"), [
    (FLASH, 69_187, 159.609e9, 46), (PRO, 145_116, 864.705e9, 64)], ids=["flash", "pro"])
def test_full_size_opens_fast_and_small(tmp_path: Path, config: dict, tensors: int, size: float,
                                        shards: int) -> None:
    total = write_sparse(tmp_path, config)
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    assert (len(index), len(set(index.values()))) == (tensors, shards)       # specification 3.1
    assert total == pytest.approx(size, rel=1e-5)
    out = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], check=True, text=True,
                         capture_output=True, cwd=tmp_path).stdout
    _, ignored, seconds, peak = map(float, out.split())
    assert ignored == sum(name.startswith("mtp.") for name in index)
    assert seconds < 15
    assert peak < 500


COMMAND = f"""
import re, sys
from firstlight.cli import run_command_line
if "compile" in sys.argv:
    import tvm      # most of its pages are a file's, and how many are read is the system's choice
before = {PEAK}
status = run_command_line([*sys.argv[1:], "--json"])
print({PEAK} - before, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.parametrize("config", [FLASH, PRO], ids=["flash", "pro"])
def test_full_size_is_inspected_and_planned_fast_and_small(tmp_path: Path, config: dict) -> None:
    total = write_sparse(tmp_path, config)
    for command in (["inspect"], ["compile", "--dry-run"]):
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", COMMAND, *command, str(tmp_path)], check=True,
                              text=True, capture_output=True, cwd=tmp_path)
        assert time.monotonic() - start < 30                     # 1 to 5 s on a quiet machine
        assert float(done.stderr) < 250
        document = json.loads(done.stdout)
        weights = document.get("weight_bytes") or sum(row["bytes"] for row in document["codecs"])
        assert 0.9 * total < weights < total                     # all but MTP
