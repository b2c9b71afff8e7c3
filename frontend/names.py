"""Tensor names: what three naming schemes call a tensor, as tables (specification 3.3).

Every scheme is brought to the released names by stripping `model.`, renaming the two modules and
looking the rest up; mixtures of schemes come out right by construction.
"""

from __future__ import annotations

import re
from functools import cache

MODULES = {"self_attn.": "attn.", "mlp.": "ffn."}
"""First part of a layer's names in transformers and older converters -> released."""

LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attn_hc.fn": "hc_attn_fn",
    "attn_hc.base": "hc_attn_base",
    "attn_hc.scale": "hc_attn_scale",
    "ffn_hc.fn": "hc_ffn_fn",
    "ffn_hc.base": "hc_ffn_base",
    "ffn_hc.scale": "hc_ffn_scale",
    "attn.q_a_proj": "attn.wq_a",
    "attn.q_a_norm": "attn.q_norm",
    "attn.q_b_proj": "attn.wq_b",
    "attn.kv_proj": "attn.wkv",
    "attn.norm": "attn.kv_norm",              # a slip of save_pretrained
    "attn.sinks": "attn.attn_sink",
    "attn.o_a_proj": "attn.wo_a",
    "attn.o_b_proj": "attn.wo_b",
    "attn.compressor.kv_proj": "attn.compressor.wkv",
    "attn.compressor.gate_proj": "attn.compressor.wgate",
    "attn.compressor.position_bias": "attn.compressor.ape",
    "attn.compressor.kv_norm": "attn.compressor.norm",
    "attn.compressor.indexer.q_b_proj": "attn.indexer.wq_b",
    "attn.compressor.indexer.scorer.weights_proj": "attn.indexer.weights_proj",
    "attn.compressor.indexer.kv_proj": "attn.indexer.compressor.wkv",
    "attn.compressor.indexer.gate_proj": "attn.indexer.compressor.wgate",
    "attn.compressor.indexer.position_bias": "attn.indexer.compressor.ape",
    "attn.compressor.indexer.kv_norm": "attn.indexer.compressor.norm",
    "ffn.gate.e_score_correction_bias": "ffn.gate.bias",
    "ffn.shared_experts.gate_proj": "ffn.shared_experts.w1",
    "ffn.shared_experts.down_proj": "ffn.shared_experts.w2",
    "ffn.shared_experts.up_proj": "ffn.shared_experts.w3",
}
"""Names inside a layer, modules already renamed, without `.weight` -> released."""

EXPERT = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
"""Matrices of one expert, in older converters -> released."""

GLOBAL = {
    "embed_tokens": "embed",
    "lm_head": "head",
    "hc_head.hc_fn": "hc_head_fn",
    "hc_head.hc_base": "hc_head_base",
    "hc_head.hc_scale": "hc_head_scale",
}
"""Names outside the layers, without `.weight` -> released."""

SUFFIXES = {".weight_scale_inv": ".scale", ".weight": ".weight", ".scale": ".scale"}

STACKED = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
"""`ffn.experts.X` of transformers: all experts in one tensor; matrices that lie in its rows."""

ROLES = {
    "experts": ("*.ffn.experts.*", "*.ffn.shared_experts.*"),
    "attn": ("*.attn.w[qko]*.weight", "*.attn.indexer.wq_b.weight"),
    "compressor": ("*.compressor.w*.weight", "*.attn.indexer.weights_proj.weight"),
    "head": ("head.weight",),
    "embedding": ("embed.weight",),
    "kv": ("*.attn.window", "*.attn.compressor.entries"),
    "index-keys": ("*.attn.indexer.compressor.entries",),
}
"""Weights (released names) and states by the role that a quantization policy knows, as shell
patterns. The first pattern that fits decides."""

LEFT_ASIDE = {
    "mtp.": "multi-token prediction or DSpark draft stage, not part of the model itself",
    "vision.": "vision tower; the text path does not read it",
    "aligner.": "vision tower; the text path does not read it",
    "rotary_emb.": "frequencies, computed from the config instead",
}
"""Prefixes of tensors that are recognised and not used, with the reason that is shown."""

_LEFT_ASIDE = tuple(LEFT_ASIDE)
_LAYER_NAME = re.compile(r"(layers\.(?:0|[1-9][0-9]{0,8})\.)(.+)", re.ASCII | re.DOTALL)
_EXPERT_NAME = re.compile(r"(ffn\.experts\.(?:0|[1-9][0-9]{0,8})\.)([a-z_]+?)(\.weight|\.scale"
                          r"|\.weight_scale_inv)", re.ASCII)


def canonical(name: str) -> str:
    """The released name of a tensor; names no table knows come back without `model.`.

    >>> canonical("model.layers.3.self_attn.q_a_proj.weight")
    'layers.3.attn.wq_a.weight'
    """
    name = name.removeprefix("model.")
    if match := _LAYER_NAME.fullmatch(name):
        return match[1] + _in_layer(match[2])
    return _renamed(name, GLOBAL)


def why_left_aside(name: str) -> str | None:
    """Reason to leave a tensor (canonical name) aside, or None if the model needs it."""
    return LEFT_ASIDE[name.split(".", 1)[0] + "."] if name.startswith(_LEFT_ASIDE) else None


@cache                # names repeat from layer to layer
def _in_layer(name: str) -> str:
    for theirs, ours in MODULES.items():
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    if match := _EXPERT_NAME.fullmatch(name):
        return match[1] + EXPERT.get(match[2], match[2]) + SUFFIXES[match[3]]
    return _renamed(name, LAYER)


def _renamed(name: str, table: dict[str, str]) -> str:
    if name in table:
        return table[name]
    for theirs, ours in SUFFIXES.items():
        if name.endswith(theirs):
            stem = name.removesuffix(theirs)
            return table.get(stem, stem) + ours
    return name
