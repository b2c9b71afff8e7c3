"""The tensors a model must have, from its config alone (specification 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from firstlight.frontend.config import LayerSpec, ModelConfig
from firstlight.ir.codecs import BLOCK_FP8, GROUP_FP4


class Expected(NamedTuple):
    """Logical shape, and the codec in which the released checkpoints store the tensor."""

    shape: tuple[int, ...]
    codec: str


def expected_tensors(config: ModelConfig) -> dict[str, Expected]:
    """Released names of all tensors of the model, experts stacked: `layers.0.ffn.experts.w1.weight`
    is [n_routed_experts, moe_intermediate_size, hidden_size].

    Scales are not listed; MTP and vision tensors are not part of the model.
    """
    return dict(_tensors(config))


def _tensors(c: ModelConfig) -> Iterator[tuple[str, Expected]]:
    d, n = c.hidden_size, c.hc_mult
    yield "embed.weight", Expected((c.vocab_size, d), "bf16")
    yield "head.weight", Expected((c.vocab_size, d), "bf16")
    yield "norm.weight", Expected((d,), "bf16")
    yield "hc_head_fn", Expected((n, n * d), "f32")
    yield "hc_head_base", Expected((n,), "f32")
    yield "hc_head_scale", Expected((1,), "f32")
    for layer in c.layers:
        p = f"layers.{layer.index}."
        for part in ("attn", "ffn"):
            yield f"{p}{part}_norm.weight", Expected((d,), "bf16")
            yield f"{p}hc_{part}_fn", Expected(((2 + n) * n, n * d), "f32")
            yield f"{p}hc_{part}_base", Expected(((2 + n) * n,), "f32")
            yield f"{p}hc_{part}_scale", Expected((3,), "f32")
        for name, expected in _attention(c, layer):
            yield f"{p}attn.{name}", expected
        for name, expected in _experts(c, layer):
            yield f"{p}ffn.{name}", expected


def _attention(c: ModelConfig, layer: LayerSpec) -> Iterator[tuple[str, Expected]]:
    d, q, width = c.hidden_size, c.q_lora_rank, c.num_attention_heads * c.head_dim
    grouped = c.o_groups * c.o_lora_rank
    yield "wq_a.weight", Expected((q, d), BLOCK_FP8)
    yield "q_norm.weight", Expected((q,), "bf16")
    yield "wq_b.weight", Expected((width, q), BLOCK_FP8)
    yield "wkv.weight", Expected((c.head_dim, d), BLOCK_FP8)
    yield "kv_norm.weight", Expected((c.head_dim,), "bf16")
    yield "attn_sink", Expected((c.num_attention_heads,), "f32")
    yield "wo_a.weight", Expected((grouped, width // c.o_groups), BLOCK_FP8)
    yield "wo_b.weight", Expected((d, grouped), BLOCK_FP8)
    if layer.compressed:
        yield from _compressor("compressor.", layer, c.head_dim, d)
    if layer.indexer:
        heads = c.index_n_heads
        yield "indexer.wq_b.weight", Expected((heads * c.index_head_dim, q), BLOCK_FP8)
        yield "indexer.weights_proj.weight", Expected((heads, d), "bf16")
        yield from _compressor("indexer.compressor.", layer, c.index_head_dim, d)


def _compressor(p: str, layer: LayerSpec, width: int, d: int) -> Iterator[tuple[str, Expected]]:
    wide = 2 * width if layer.overlap else width
    yield p + "wkv.weight", Expected((wide, d), "bf16")
    yield p + "wgate.weight", Expected((wide, d), "bf16")
    yield p + "ape", Expected((layer.ratio, wide), "f32")
    yield p + "norm.weight", Expected((width,), "bf16")


def _experts(c: ModelConfig, layer: LayerSpec) -> Iterator[tuple[str, Expected]]:
    d, inner, e = c.hidden_size, c.moe_intermediate_size, c.n_routed_experts
    yield "gate.weight", Expected((e, d), "bf16")
    if layer.hash_routed:
        yield "gate.tid2eid", Expected((c.vocab_size, c.num_experts_per_tok), "i64")
    else:
        yield "gate.bias", Expected((e,), "f32")
    for matrix, shape in (("w1", (inner, d)), ("w2", (d, inner)), ("w3", (inner, d))):
        yield f"shared_experts.{matrix}.weight", Expected(shape, BLOCK_FP8)
        yield f"experts.{matrix}.weight", Expected((e, *shape), GROUP_FP4)
