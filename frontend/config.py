"""The model's configuration, from config.json in either spelling (specification sections 1, 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.frontend.fields import REQUIRED, Fields
from firstlight.runtime.errors import FirstlightError

MODEL_TYPES = ("deepseek_v4",)
KINDS = {
    "sliding_attention": "window",
    "compressed_sparse_attention": "csa",
    "heavily_compressed_attention": "hca",
}
"""Layer types of transformers and what we call them."""

MAX_DIM = 1 << 24                 # of any one dimension; the released models stay below 2^18
MAX_LAYERS = 4096
MAX_EXPERT_MATRICES = 1 << 20     # layers x experts: what a folder of named tensors can hold
MAX_POSITION = (1 << 31) - 1      # positions are int32


@dataclass(frozen=True)
class LayerSpec:
    """One decoder layer: its attention kind, compression ratio (0 for window), and routing."""

    index: int
    kind: str
    ratio: int
    hash_routed: bool

    @property
    def compressed(self) -> bool:
        """Whether the layer has a compressor (and the rope table that goes with it)."""
        return self.kind != "window"

    @property
    def overlap(self) -> bool:
        """Whether a compressed entry also covers the block before its own (spec 4.7)."""
        return self.kind == "csa"

    @property
    def indexer(self) -> bool:
        """Whether the layer selects its entries (spec 4.8)."""
        return self.kind == "csa"


@dataclass(frozen=True)
class Yarn:
    """YaRN scaling of rope frequencies, under the names of `rope_scaling`."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class Rope:
    """One rope table: its base, and its scaling if any."""

    rope_theta: float
    yarn: Yarn | None = None


@dataclass(frozen=True)
class ModelConfig:
    """What the model is, under the field names of config.json; made by `parse_config`.

    `rope_main` serves window layers, `rope_compress` everything in CSA and HCA layers. The index
    fields are 0 where no layer has an indexer.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    qk_rope_head_dim: int
    q_lora_rank: int
    o_groups: int
    o_lora_rank: int
    sliding_window: int
    index_n_heads: int
    index_head_dim: int
    index_topk: int
    hc_mult: int
    hc_sinkhorn_iters: int
    hc_eps: float
    n_routed_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    routed_scaling_factor: float
    swiglu_limit: float
    rms_norm_eps: float
    rope_main: Rope
    rope_compress: Rope
    max_position_embeddings: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    layers: tuple[LayerSpec, ...]


def parse_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Check a config.json (both spellings, and mixtures) and say what model it describes.

    Errors: F102 model_type, F103 missing, F104 bad value, F105 contradiction, F106 unsupported.
    """
    f = Fields(raw, where)
    model_type = f.get("model_type", REQUIRED)
    if model_type not in MODEL_TYPES:
        raise FirstlightError("F102", f"model_type {str(model_type)[:60]!r} is not supported",
                              where=where, why="supported are " + ", ".join(MODEL_TYPES),
                              try_="a DeepSeek-V4 checkpoint")
    for name, value in (("num_key_value_heads", 1), ("n_shared_experts", 1),
                        ("scoring_func", "sqrtsoftplus"), ("topk_method", "noaux_tc"),
                        ("norm_topk_prob", True), ("hidden_act", "silu"), ("mlp_bias", False),
                        ("attention_bias", False), ("tie_word_embeddings", False)):
        f.only(name, value)

    def size(name: str, high: int = MAX_DIM) -> int:
        return f.integer(name, 1, high)

    layers = _layers(f, f.integer("num_hidden_layers", 1, MAX_LAYERS))
    indexed = any(spec.indexer for spec in layers)
    vocabulary, head = size("vocab_size"), size("head_dim", 1 << 16)
    rope = _rope_dims(f, head)
    config = ModelConfig(
        model_type=model_type,
        vocab_size=vocabulary,
        hidden_size=size("hidden_size"),
        num_hidden_layers=len(layers),
        num_attention_heads=size("num_attention_heads", 1 << 16),
        head_dim=head,
        qk_rope_head_dim=rope,
        q_lora_rank=size("q_lora_rank"),
        o_groups=size("o_groups", 1 << 16),
        o_lora_rank=size("o_lora_rank"),
        sliding_window=size("sliding_window"),
        index_n_heads=size("index_n_heads", 1 << 16) if indexed else 0,
        index_head_dim=size("index_head_dim", 1 << 16) if indexed else 0,
        index_topk=size("index_topk", MAX_POSITION) if indexed else 0,
        hc_mult=size("hc_mult", 64),
        hc_sinkhorn_iters=size("hc_sinkhorn_iters", 1000),
        hc_eps=f.number("hc_eps", 0, 1),
        n_routed_experts=size("n_routed_experts", 1 << 16),
        num_experts_per_tok=size("num_experts_per_tok", 1 << 16),
        moe_intermediate_size=size("moe_intermediate_size"),
        routed_scaling_factor=f.number("routed_scaling_factor", 0, 1e6),
        swiglu_limit=f.number("swiglu_limit", 0, 1e30),
        rms_norm_eps=f.number("rms_norm_eps", 0, 1),
        **_ropes(f, any(spec.compressed for spec in layers)),
        max_position_embeddings=size("max_position_embeddings", MAX_POSITION),
        bos_token_id=f.integer("bos_token_id", 0, vocabulary - 1, None),
        eos_token_ids=eos_token_ids(f, vocabulary),
        layers=layers,
    )
    _check(f, config)
    return config


def _check(f: Fields, c: ModelConfig) -> None:
    """Relations between fields."""
    if c.num_attention_heads % c.o_groups:
        f.contradiction(f"{c.num_attention_heads} num_attention_heads in {c.o_groups} o_groups",
                        "every output group takes the same number of heads")
    if c.num_experts_per_tok > c.n_routed_experts:
        f.contradiction(f"num_experts_per_tok is {c.num_experts_per_tok}",
                        f"there are only {c.n_routed_experts} routed experts")
    if 0 < c.index_head_dim < c.qk_rope_head_dim:
        f.contradiction(f"index_head_dim is {c.index_head_dim}",
                        f"the indexer ropes its last {c.qk_rope_head_dim} dims (qk_rope_head_dim)")
    if c.num_hidden_layers * c.n_routed_experts > MAX_EXPERT_MATRICES:
        f.contradiction(f"{c.num_hidden_layers} layers of {c.n_routed_experts} experts",
                        f"more than {MAX_EXPERT_MATRICES} experts is no model we know of")


def _layers(f: Fields, count: int) -> tuple[LayerSpec, ...]:
    """Kind, ratio and routing of every layer; entries past the last layer belong to MTP."""
    types = f.words("layer_types", KINDS, count)
    ratios = f.integers("compress_ratios", 0, 1 << 20, count)
    mlps = f.words("mlp_layer_types", ("hash_moe", "moe"), count)
    for name, given in (("layer_types", types), ("compress_ratios", ratios),
                        ("mlp_layer_types", mlps)):
        if given is not None and len(given) < count:
            f.contradiction(f"{name} has {len(given)} entries", f"there are {count} layers")
    if types is None and ratios is None:
        f.get("compress_ratios", REQUIRED)
    hashed = f.integer("num_hash_layers", 0, MAX_DIM, REQUIRED if mlps is None else None)
    if mlps is not None and hashed is not None:
        if mlps != ["hash_moe" if i < hashed else "moe" for i in range(count)]:
            f.contradiction(f"num_hash_layers is {hashed}", "mlp_layer_types says otherwise")
    specs = []
    for i in range(count):
        if types is not None:
            kind = KINDS[types[i]]
        else:                                  # spec 2; overlap and indexer follow from the kind
            kind = {0: "window", 4: "csa"}.get((ratios or [])[i], "hca")
        if ratios is None:
            ratio = 0 if kind == "window" else _rate(f, kind)
        else:
            ratio = ratios[i]
        if (ratio == 0) != (kind == "window"):
            f.contradiction(f"compress_ratios[{i}] is {ratio}",
                            f"layer_types makes layer {i} a {kind} layer")
        by_table = i < hashed if mlps is None else mlps[i] == "hash_moe"
        specs.append(LayerSpec(i, kind, ratio, by_table))
    return tuple(specs)


def _rate(f: Fields, kind: str) -> int:
    """Ratio of a kind where compress_ratios is absent."""
    long = next(name for name, short in KINDS.items() if short == kind)
    rates = f.table("compress_rates")
    if rates is not None and rates.get(long) is not None:
        return rates.integer(long, 1, 1 << 20)
    return f.integer(f"compress_rate_{kind}", 1, 1 << 20)


def _rope_dims(f: Fields, head: int) -> int:
    """qk_rope_head_dim, else head_dim x partial_rotary_factor (top level, or of the main table)."""
    dims = f.integer("qk_rope_head_dim", 1, MAX_DIM, None)
    nested = f.table("rope_parameters")
    nested = nested and nested.table("main")
    factor = f.number("partial_rotary_factor", 0, 1, None)
    if factor is None and nested:
        factor = nested.number("partial_rotary_factor", 0, 1, None)
    if factor is not None and dims is None:
        dims = round(head * factor)
    elif factor is not None and round(head * factor) != dims:
        f.contradiction(f"qk_rope_head_dim is {dims}",
                        f"partial_rotary_factor {factor:g} of head_dim {head} is another number")
    if dims is None:
        f.get("qk_rope_head_dim", REQUIRED)
    if dims % 2 or dims > head or dims == 0:
        f.contradiction(f"qk_rope_head_dim is {dims}",
                        f"rope turns pairs of dims, at most all {head} of a head (head_dim)")
    return dims


def _ropes(f: Fields, compressed: bool) -> dict[str, Rope]:
    """Both rope tables, from rope_parameters {main, compress} or from the released fields."""
    parameters = f.table("rope_parameters")
    main = parameters and parameters.table("main")
    compress = parameters and parameters.table("compress")
    flat = f.table("rope_scaling") or (None if main or compress else parameters)

    def table(own: Fields | None, field: str, scaling: Fields | None) -> Rope:
        if own is not None and own.get("rope_theta") is not None:
            theta = own.number("rope_theta", 1, 1e12)
        else:
            theta = f.number(field, 1, 1e12)
        return Rope(theta, _yarn(own or scaling))

    rope_main = table(main, "rope_theta", None)
    if not compressed and compress is None and f.get("compress_rope_theta") is None:
        return {"rope_main": rope_main, "rope_compress": rope_main}       # no layer uses it
    return {"rope_main": rope_main,
            "rope_compress": table(compress, "compress_rope_theta", flat)}


def _yarn(f: Fields | None) -> Yarn | None:
    if f is None:
        return None
    kind = f.get("rope_type", f.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        f.unsupported("rope_type", kind, "supported are 'default' and 'yarn'")
    f.only("truncate", True)
    # DeepSeek-V4 never scales cos and sin (spec 4.4); mscale fields have no effect there.
    if f.number("attention_factor", 0, 1e6, 1.0) != 1.0:
        f.unsupported("attention_factor", f.get("attention_factor"), "DeepSeek-V4 has 1.0")
    yarn = Yarn(f.number("factor", 0, 1e6),
                f.integer("original_max_position_embeddings", 1, MAX_POSITION),
                f.number("beta_fast", 0, 1e6, 32.0), f.number("beta_slow", 0, 1e6, 1.0))
    if yarn.beta_fast < yarn.beta_slow:
        f.contradiction(f"beta_fast {yarn.beta_fast:g} is below beta_slow {yarn.beta_slow:g}",
                        "the fast end of the ramp turns more often than the slow one")
    return yarn


def eos_token_ids(f: Fields, vocabulary: int) -> tuple[int, ...]:
    """The ids that end a text, one or a list; none where the field is absent. Errors: F104."""
    if isinstance(f.get("eos_token_id"), list):
        return tuple(f.integers("eos_token_id", 0, vocabulary - 1) or ())
    one = f.integer("eos_token_id", 0, vocabulary - 1, None)
    return () if one is None else (one,)


def rope_frequencies(config: ModelConfig, compressed: bool) -> NDArray[np.float32]:
    """Angle per position of each rope pair, float32 [r/2] (spec 4.4).

    `compressed`: the table of CSA and HCA layers. Float32 steps in transformers' order, so that
    both agree to the bit but where its power function is off by one.
    """
    rope, r = (config.rope_compress if compressed else config.rope_main), config.qk_rope_head_dim
    one = np.float32(1)
    exponents = np.arange(0, r, 2, dtype=np.float32) / np.float32(r)
    base = np.float64(np.float32(rope.rope_theta))
    periods = (base ** exponents.astype(np.float64)).astype(np.float32)
    if rope.yarn is None:
        return one / periods
    y = rope.yarn

    def dim_of(turns: float) -> float:
        return (r * math.log(y.original_max_position_embeddings / (turns * 2 * math.pi))
                / (2 * math.log(rope.rope_theta)))

    low = max(math.floor(dim_of(y.beta_fast)), 0)
    high: float = min(math.ceil(dim_of(y.beta_slow)), r - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(r // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low),
                   np.float32(0), one)
    keep = one - ramp
    return (one / (np.float32(y.factor) * periods)) * (one - keep) + (one / periods) * keep
