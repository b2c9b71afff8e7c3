"""Write a random model as a checkpoint folder, in each of the three naming schemes.

Schemes (specification 3.3): "released" names, "module" names as transformers' `state_dict` shows,
"saved" names as `save_pretrained` writes by default. Own writer, so that no reader of the project
is tested against its own idea of the safetensors format.
"""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from support.stored import Stored, dequantise

LAYER_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    **{f"hc_attn_{x}": f"attn_hc.{x}" for x in ("fn", "base", "scale")},
    **{f"hc_ffn_{x}": f"ffn_hc.{x}" for x in ("fn", "base", "scale")},
    "attn.wq_a.weight": "self_attn.q_a_proj.weight",
    "attn.q_norm.weight": "self_attn.q_a_norm.weight",
    "attn.wq_b.weight": "self_attn.q_b_proj.weight",
    "attn.wkv.weight": "self_attn.kv_proj.weight",
    "attn.kv_norm.weight": "self_attn.kv_norm.weight",
    "attn.attn_sink": "self_attn.sinks",
    "attn.wo_a.weight": "self_attn.o_a_proj.weight",
    "attn.wo_b.weight": "self_attn.o_b_proj.weight",
    "attn.compressor.wkv.weight": "self_attn.compressor.kv_proj.weight",
    "attn.compressor.wgate.weight": "self_attn.compressor.gate_proj.weight",
    "attn.compressor.ape": "self_attn.compressor.position_bias",
    "attn.compressor.norm.weight": "self_attn.compressor.kv_norm.weight",
    "attn.indexer.wq_b.weight": "self_attn.compressor.indexer.q_b_proj.weight",
    "attn.indexer.weights_proj.weight": "self_attn.compressor.indexer.scorer.weights_proj.weight",
    "attn.indexer.compressor.wkv.weight": "self_attn.compressor.indexer.kv_proj.weight",
    "attn.indexer.compressor.wgate.weight": "self_attn.compressor.indexer.gate_proj.weight",
    "attn.indexer.compressor.ape": "self_attn.compressor.indexer.position_bias",
    "attn.indexer.compressor.norm.weight": "self_attn.compressor.indexer.kv_norm.weight",
    "ffn.gate.weight": "mlp.gate.weight",
    "ffn.gate.bias": "mlp.gate.e_score_correction_bias",
    "ffn.gate.tid2eid": "mlp.gate.tid2eid",
    "ffn.shared_experts.w1.weight": "mlp.shared_experts.gate_proj.weight",
    "ffn.shared_experts.w2.weight": "mlp.shared_experts.down_proj.weight",
    "ffn.shared_experts.w3.weight": "mlp.shared_experts.up_proj.weight",
}
"""Released leaf (after `layers.{i}.`) to transformers leaf (after `model.layers.{i}.`)."""

GLOBAL_NAMES = {
    "embed.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "model.norm.weight",
    **{f"hc_head_{x}": f"model.hc_head.hc_{x}" for x in ("fn", "base", "scale")},
}
_EXPERT = re.compile(r"layers\.(\d+)\.ffn\.experts\.(\d+)\.(w[123])\.weight")
_NUMPY_TAGS = {"float32": "F32", "int64": "I64"}


def module_tensors(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Dequantised released tensors (float32, int64) under transformers' module names.

    Experts are stacked: gate_up_proj [E, 2I, D] holds w1 above w3, down_proj [E, D, I] holds w2.
    `mtp.*` has no home in transformers and is dropped.
    """
    out: dict[str, np.ndarray] = {}
    experts: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for name, value in values.items():
        if name.startswith("mtp."):
            continue
        if name in GLOBAL_NAMES:
            out[GLOBAL_NAMES[name]] = value
        elif match := _EXPERT.fullmatch(name):
            experts.setdefault((match[1], match[3]), {})[int(match[2])] = value
        else:
            _, layer, leaf = name.split(".", 2)
            out[f"model.layers.{layer}.{LAYER_NAMES[leaf]}"] = value
    stacked = {key: np.stack([part[e] for e in range(len(part))]) for key, part in experts.items()}
    for layer, which in stacked:
        home = f"model.layers.{layer}.mlp.experts."
        if which == "w1":
            both = (stacked[layer, "w1"], stacked[layer, "w3"])
            out[home + "gate_up_proj"] = np.concatenate(both, axis=1)
        elif which == "w2":
            out[home + "down_proj"] = stacked[layer, "w2"]
    return out


def saved_tensors(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Dequantised released tensors under the names `save_pretrained` writes by default."""
    special = {name: GLOBAL_NAMES[name] for name in GLOBAL_NAMES if name != "head.weight"}
    out = {}
    for name, value in values.items():
        if name.startswith("mtp."):
            continue
        if name.startswith("layers."):
            # save_pretrained's own slip: the KV norm of the attention loses its "kv_".
            name = "model." + name.replace("attn.kv_norm.", "attn.norm.")
        out[special.get(name, name)] = value
    return out


def transformers_config_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config.json in transformers' spelling, as `save_pretrained` writes it.

    Leaves out `qk_rope_head_dim`, which transformers writes beside `partial_rotary_factor`: a
    reader has to manage with either.
    """
    dropped = (
        "compress_ratios num_hash_layers qk_rope_head_dim rope_scaling torch_dtype"
        " quantization_config expert_dtype"
    ).split()
    out = {key: value for key, value in config.items() if key not in dropped}
    layers, hashed = config["num_hidden_layers"], config["num_hash_layers"]
    factor = config["qk_rope_head_dim"] / config["head_dim"]
    theta, compress_theta = config["rope_theta"], config["compress_rope_theta"]
    main = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": factor}
    compress = main | {"rope_theta": compress_theta}
    if config["rope_scaling"]:
        rope_type = config["rope_scaling"]["type"]
        compress |= config["rope_scaling"] | {"rope_type": rope_type, "attention_factor": 1.0}
    return out | {
        "mlp_layer_types": ["hash_moe"] * min(layers, hashed) + ["moe"] * max(0, layers - hashed),
        "partial_rotary_factor": factor,
        "rope_parameters": {"main": main, "compress": compress},
        "dtype": "float32",
        "transformers_version": "5.23.0",
    }


def write_safetensors(path: Path, tensors: Mapping[str, Stored]) -> None:
    """One safetensors file: header length, JSON header, the bytes in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, data) in tensors.items():
        end = at + data.nbytes
        header[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, data in tensors.values():
            file.write(np.ascontiguousarray(data).tobytes())


def _in_scheme(tensors: Mapping[str, Stored], scheme: str) -> dict[str, Stored]:
    if scheme == "released":
        return dict(tensors)
    rename = {"module": module_tensors, "saved": saved_tensors}[scheme]
    plain = rename(dequantise(tensors))
    return {name: Stored(_NUMPY_TAGS[value.dtype.name], value) for name, value in plain.items()}


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    scheme: str = "released",
    shards: int = 1,
) -> Path:
    """Make `folder` a checkpoint: config.json, `shards` safetensors files, index if several.

    scheme "released" stores the codes as they are; "module" and "saved" store dequantised F32
    under transformers' names and write config.json in transformers' spelling. Returns `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(config) if scheme == "released" else transformers_config_json(config)
    if scheme == "released" and any(t.dtype == "F8_E4M3" for t in tensors.values()):
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "scale_fmt": "ue8m0",
            "weight_block_size": [128, 128],
        }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stored = _in_scheme(tensors, scheme)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", stored)
        return folder
    names, weight_map = list(stored), {}
    for i in range(shards):
        part = names[len(names) * i // shards : len(names) * (i + 1) // shards]
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / file, {name: stored[name] for name in part})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.data.nbytes for t in stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return folder
