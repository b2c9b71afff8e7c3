"""Small random DeepSeek-V4 checkpoints of each layer pattern, written with numpy."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from firstlight.frontend.config import parse_config
from firstlight.frontend.expected import Expected, expected_tensors
from firstlight.ir import codecs
from firstlight.ir.types import BLOCK_FP8, GROUP_FP4
from firstlight.runtime.safetensors import SafetensorsWriter, TensorPlan
from firstlight.targets.conform.data import Array, Random

PATTERNS = {"window": "w", "csa": "c", "hca": "h", "flash-like": "wwchc", "pro-like": "hhchc"}
"""One letter per layer: sliding window, compressed sparse, heavily compressed attention."""
KINDS = {"w": ("sliding_attention", 0), "c": ("compressed_sparse_attention", 4),
         "h": ("heavily_compressed_attention", 8)}
STORED = {"f32": "F32", "bf16": "BF16", "i64": "I64", BLOCK_FP8: "F8_E4M3", GROUP_FP4: "I8"}


def random_config(layers: str) -> dict[str, Any]:
    """A config.json in the released spelling; sides are no multiples of each other."""
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
        "vocab_size": 101, "hidden_size": 96, "num_hidden_layers": len(layers),
        "num_attention_heads": 6, "num_key_value_heads": 1, "head_dim": 16, "qk_rope_head_dim": 8,
        "q_lora_rank": 50, "o_groups": 3, "o_lora_rank": 20, "sliding_window": 7,
        "index_n_heads": 5, "index_head_dim": 16, "index_topk": 3, "hc_mult": 4,
        "hc_sinkhorn_iters": 20, "hc_eps": 1e-6, "n_routed_experts": 6, "num_experts_per_tok": 3,
        "n_shared_experts": 1, "moe_intermediate_size": 32, "num_hash_layers": len(layers) // 3,
        "routed_scaling_factor": 1.5, "swiglu_limit": 2.0, "rms_norm_eps": 1e-6,
        "scoring_func": "sqrtsoftplus", "topk_method": "noaux_tc", "norm_topk_prob": True,
        "rope_theta": 10000, "compress_rope_theta": 40000, "max_position_embeddings": 4096,
        "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 64,
                         "beta_fast": 32, "beta_slow": 1},
        "compress_ratios": [KINDS[x][1] for x in layers], "num_nextn_predict_layers": 0,
        "layer_types": [KINDS[x][0] for x in layers],
        "compress_rates": {KINDS[x][0]: KINDS[x][1] for x in "ch"},
        "tie_word_embeddings": False, "attention_bias": False, "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "scale_fmt": "ue8m0",
                                "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    }


def write_checkpoint(folder: Path, layers: str) -> None:
    """Make `folder` a checkpoint with layers of these kinds; the same bytes every time."""
    folder.mkdir()
    config = random_config(layers)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors: dict[str, tuple[str, Array]] = {}
    for name, expected in expected_tensors(parse_config(config)).items():
        random = np.random.default_rng(zlib.crc32(f"{layers} {name}".encode()))
        tensors.update(_stored(name, _values(name, expected, random, config), expected.codec))
    plan = [TensorPlan(name, dtype, data.shape) for name, (dtype, data) in tensors.items()]
    with SafetensorsWriter(folder / "model.safetensors", plan) as out:
        for name, (_, data) in tensors.items():
            out.write(name, data)


def _values(name: str, expected: Expected, random: Random, config: dict[str, Any]) -> Array:
    """Weights at the magnitudes of real ones: logits come out between -10 and 10."""
    shape = expected.shape
    if name.endswith("tid2eid"):
        keys = random.random((shape[0], config["n_routed_experts"]))
        return np.argsort(keys, axis=1)[:, : shape[1]]
    x = random.standard_normal(shape).astype(np.float32)
    if name.endswith("norm.weight"):
        return 1 + np.float32(0.2) * x
    if name.endswith("_scale"):
        return np.float32(0.6) + np.float32(0.3) * x
    if name.endswith("_base"):
        n = config["hc_mult"]
        if len(x) > n:
            x[2 * n:] += 1.5 * np.eye(n, dtype=np.float32).ravel()
        return x
    if name.endswith("attn_sink"):
        return np.float32(1.5) * x + np.where(random.random(shape) < 0.25, 5, 0)
    if len(shape) == 1 or name.endswith("ape"):
        return np.float32(0.5) * x
    gain = 1.0 if name == "embed.weight" else 1.5 / shape[-1] ** 0.5
    return x * np.float32(gain)


def _stored(name: str, value: Array, codec: str) -> Iterator[tuple[str, tuple[str, Array]]]:
    """(released name, (safetensors dtype, codes)) of a tensor and its scales, expert by expert."""
    if value.ndim == 3:
        head, _, matrix = name.partition("experts.")
        for e, one in enumerate(value):
            yield from _stored(f"{head}experts.{e}.{matrix}", one, codec)
        return
    if codec == "i64":
        yield name, ("I64", value.astype(np.int64))
        return
    codes, scales = codecs.encode_weight(value, codec)
    yield name, (STORED[codec], codes.view(np.int8) if codec == GROUP_FP4 else codes)
    if scales is not None:
        yield name.removesuffix("weight") + "scale", ("F8_E8M0", scales)
