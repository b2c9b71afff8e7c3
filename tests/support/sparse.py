"""Checkpoint folders of the released sizes that cost a few MB of disk: headers, then file holes.

Holes read as zeros, which are valid numbers in every codec, so names, headers, planning and memory
can be tested at full size; numbers cannot. Names and shapes come from `expected_tensors`, which the
released census (specification 3.1: tensors, bytes) holds to account in the tests.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.frontend.config import parse_config
from firstlight.frontend.expected import Expected, expected_tensors

Config = dict[str, Any]
Entry = tuple[str, str, tuple[int, ...]]

_SHARED: Config = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
    "vocab_size": 129280, "num_key_value_heads": 1, "head_dim": 512, "qk_rope_head_dim": 64,
    "o_lora_rank": 1024, "sliding_window": 128, "index_n_heads": 64, "index_head_dim": 128,
    "hc_mult": 4, "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "n_shared_experts": 1,
    "num_experts_per_tok": 6, "num_hash_layers": 3, "scoring_func": "sqrtsoftplus",
    "topk_method": "noaux_tc", "norm_topk_prob": True, "swiglu_limit": 10.0, "rms_norm_eps": 1e-6,
    "rope_theta": 10000, "compress_rope_theta": 160000,
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 65536,
                     "beta_fast": 32, "beta_slow": 1},
    "max_position_embeddings": 1048576, "num_nextn_predict_layers": 1,
    "tie_word_embeddings": False, "attention_bias": False, "hidden_act": "silu",
    "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
}

FLASH: Config = _SHARED | {
    "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64, "q_lora_rank": 1024,
    "o_groups": 8, "index_topk": 512, "n_routed_experts": 256, "moe_intermediate_size": 2048,
    "routed_scaling_factor": 1.5, "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
}
"""DeepSeek-V4-Flash, specification 1.1 and 2."""

PRO: Config = _SHARED | {
    "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "q_lora_rank": 1536,
    "o_groups": 16, "index_topk": 1024, "n_routed_experts": 384, "moe_intermediate_size": 3072,
    "routed_scaling_factor": 2.5, "compress_ratios": [128, 128, *[4, 128] * 29, 4, 0],
}
"""DeepSeek-V4-Pro."""

_PLAIN = {"f32": ("F32", 4), "bf16": ("BF16", 2), "i64": ("I64", 8)}
_SIZE = {"I8": 1, "F8_E4M3": 1, "F8_E8M0": 1, **dict(_PLAIN.values())}


def write_sparse(folder: Path, config: Config) -> int:
    """Write config, index and shards (embedding, each layer, head, MTP); returns tensor bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(config))
    weight_map, total = {}, 0
    for i, entries in enumerate(shards, 1):
        name = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        total += _write_shard(folder / name, entries)
        weight_map |= {entry[0]: name for entry in entries}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return total


def _shards(config: Config) -> Iterator[list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for name, expected in expected_tensors(parse_config(config)).items():
        key = ".".join(name.split(".")[:2]) if name.startswith("layers.") else "global"
        groups.setdefault(key, []).extend(_stored(name, expected))
    yield [e for e in groups["global"] if e[0] == "embed.weight"]
    yield from (entries for key, entries in groups.items() if key != "global")
    head = [e for e in groups["global"] if e[0] != "embed.weight"]
    yield head
    yield _mtp(config, [e for e in head if e[0] != "head.weight"])


def _mtp(config: Config, head: list[Entry]) -> list[Entry]:
    """Specification 3.1: a block of the window kind, two projections, two norms, an own head."""
    block = config | {"num_hidden_layers": 1, "compress_ratios": [0], "num_hash_layers": 0}
    d = config["hidden_size"]
    entries = [("mtp.0." + name.removeprefix("layers.0."), dtype, shape)
               for tensor, expected in expected_tensors(parse_config(block)).items()
               if tensor.startswith("layers.")
               for name, dtype, shape in _stored(tensor, expected)]
    for projection in ("e_proj", "h_proj"):
        fp8 = Expected((d, d), "fp8e4m3/128x128:ue8m0")
        entries += _stored(f"mtp.0.{projection}.weight", fp8)
    entries += [(f"mtp.0.{norm}.weight", "BF16", (d,)) for norm in ("enorm", "hnorm")]
    return entries + [("mtp.0." + name, dtype, shape) for name, dtype, shape in head]


def _stored(name: str, expected: Expected) -> Iterator[Entry]:
    """What the files hold for a tensor: one entry per expert, codes and scales apart."""
    shape, codec = expected
    if ".ffn.experts." in name:
        head, tail = name.split(".experts.")
        for e in range(shape[0]):
            yield from _pair(f"{head}.experts.{e}.{tail}", Expected(shape[1:], codec))
    else:
        yield from _pair(name, expected)


def _pair(name: str, expected: Expected) -> Iterator[Entry]:
    shape, codec = expected
    if codec in _PLAIN:
        yield name, _PLAIN[codec][0], shape
        return
    rows, columns = shape
    scale = name.removesuffix(".weight") + ".scale"
    if codec.startswith("fp8"):
        yield name, "F8_E4M3", shape
        yield scale, "F8_E8M0", (math.ceil(rows / 128), math.ceil(columns / 128))
    else:
        yield name, "I8", (rows, columns // 2)
        yield scale, "F8_E8M0", (rows, columns // 32)


def _write_shard(path: Path, entries: list[Entry]) -> int:
    header, at = {}, 0
    for name, dtype, shape in entries:
        end = at + _SIZE[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at
