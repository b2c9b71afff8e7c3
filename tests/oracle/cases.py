"""Named random configurations that together reach every corner of issue 3, section 7.1.

Only the table: what a case is and which there are. `oracle.live` holds a backend against them,
`golden/make_golden.py` records a few of them. Needs neither torch nor transformers.
"""

import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from support.random_models import random_config


@dataclass(frozen=True, eq=False)
class Case:
    """One configuration, how its weights are stored, and how many tokens it reads.

    layers: as in `random_config`, None for random ones. chunk: prefill chunk of the compiled
    artifact. A `tied` case has index scores that tie exactly: only agreement with itself can be
    asked of it.
    """

    name: str
    layers: str | None
    fields: tuple[tuple[str, Any], ...]
    seed: int
    tokens: int
    codecs: str = "f32"
    scheme: str = "released"
    shards: int = 1
    sink_shift: float = 0.0
    chunk: int = 16
    tied: bool = False

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config.json of the case."""
        return random_config(self.seed, layers=self.layers, **dict(self.fields))

    @property
    def context(self) -> int:
        """Context limit to compile for: all tokens and a little room."""
        return self.tokens + 8


def _case(name: str, layers: str, seed: int, tokens: int = 70, **more: Any) -> Case:
    own = {key: more.pop(key) for key in list(more) if key in Case.__dataclass_fields__}
    return Case(name, layers, tuple(more.items()), seed, tokens, **own)


def _yarn(original: int) -> dict[str, Any]:
    scaling = {"type": "yarn", "factor": 16, "beta_fast": 32, "beta_slow": 1}
    return scaling | {"original_max_position_embeddings": original}


_FP4 = {
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "num_attention_heads": 8,
    "head_dim": 24,
    "qk_rope_head_dim": 8,
    "o_groups": 2,
    "index_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "codecs": "released",
}
_ODD = {
    "hidden_size": 50,
    "q_lora_rank": 23,
    "num_attention_heads": 6,
    "head_dim": 18,
    "qk_rope_head_dim": 6,
    "index_head_dim": 10,
    "o_groups": 3,
    "o_lora_rank": 7,
    "moe_intermediate_size": 19,
    "vocab_size": 101,
    "n_routed_experts": 5,
    "num_experts_per_tok": 3,
}
_WIDE = {
    "hidden_size": 192,
    "q_lora_rank": 160,
    "num_attention_heads": 8,
    "head_dim": 40,
    "qk_rope_head_dim": 8,
    "o_groups": 2,
    "moe_intermediate_size": 160,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}
_HEADS8 = {"num_attention_heads": 8, "head_dim": 16, "qk_rope_head_dim": 8, "index_head_dim": 16}
_ROPE32 = {"head_dim": 32, "qk_rope_head_dim": 32, "index_head_dim": 32}
_PLAIN = {"num_hash_layers": 0}

CASES = (
    _case("window_only", "www", 1, 40, sliding_window=7, hc_mult=4),
    _case("window_of_two", "ww", 2, 30, sliding_window=2, **_PLAIN),
    _case("window_of_128", "w", 3, 270, sliding_window=128, **_PLAIN),
    _case("csa_only", "ccc", 4, csa=4, index_topk=6, **_PLAIN),
    _case("csa_2_top_1", "cc", 5, csa=2, index_topk=1, sliding_window=5),
    _case("csa_8_top_beyond_all", "cc", 6, 80, csa=8, index_topk=64, sliding_window=9),
    _case("csa_16_above_hca_4", "chc", 7, 90, csa=16, hca=4, index_topk=2),
    _case("csa_128", "c", 8, 400, csa=128, index_topk=1, sliding_window=31, hc_mult=2),
    _case("hca_only", "hhh", 9, hca=16, sliding_window=11),
    _case("hca_2", "hh", 10, 40, hca=2, sliding_window=3, **_PLAIN),
    _case("hca_128", "h", 11, 270, hca=128, sliding_window=16, **_PLAIN),
    _case("ratio_1", "ch", 12, 40, csa=1, hca=1, index_topk=5),
    _case("ratio_3_and_5", "hc", 13, 60, csa=3, hca=5, index_topk=4),
    _case("a_ratio_for_each_layer", "chchwc", 14, compress_ratios=[2, 4, 8, 16, 0, 4, 0]),
    _case("flash", "wwchc", 15, csa=4, hca=16, num_hash_layers=3, shards=2, **_FP4),
    _case("flash_128", "wwch", 16, 262, csa=4, hca=128, sliding_window=128, index_topk=16),
    _case("pro", "hhchch", 17, csa=4, hca=16, num_hash_layers=3, shards=3, **_FP4),
    _case("pro_128", "hhc", 18, 262, csa=4, hca=128, sliding_window=8, index_topk=32),
    _case("all_hash", "wch", 19, num_hash_layers=3, n_routed_experts=6, num_experts_per_tok=3),
    _case("one_of_two_experts", "hc", 20, n_routed_experts=2, num_experts_per_tok=1),
    _case(
        "eight_of_64_experts", "cw", 21, n_routed_experts=64, num_experts_per_tok=8, hidden_size=96
    ),
    _case("all_experts_active", "ch", 22, n_routed_experts=8, num_experts_per_tok=8),
    _case("eight_groups", "ch", 23, o_groups=8, hc_mult=3, **_HEADS8),
    _case("one_group", "hc", 24, o_groups=1, hc_mult=2, **_HEADS8),
    _case("one_sinkhorn_round", "wc", 25, 50, hc_sinkhorn_iters=1, hc_mult=3, hc_eps=1e-2),
    _case("yarn_ramp", "wch", 26, rope_scaling=_yarn(32), **_ROPE32),
    _case("no_yarn", "wch", 27, yarn=False, hc_mult=4),
    _case("rope_is_the_head", "wch", 28, head_dim=16, qk_rope_head_dim=16, index_head_dim=16),
    _case("binding_clamps", "ch", 29, swiglu_limit=0.2),
    _case("dominating_sinks", "wch", 30, sink_shift=9.0),
    _case("absent_sinks", "wch", 31, sink_shift=-40.0),
    _case("odd_sides", "wch", 32, codecs="released", **_ODD),
    _case("several_fp8_tiles", "ch", 33, codecs="released", **_WIDE),
    _case("fp8_experts", "hc", 34, 50, hidden_size=96, codecs="fp8"),
    _case("bf16", "wch", 35, 50, codecs="bf16"),
    _case("f16", "wch", 36, 50, codecs="f16"),
    _case("module_names", "wch", 37, 50, scheme="module", shards=2),
    _case("saved_names", "wch", 38, 50, scheme="saved", num_hash_layers=1),
    _case("tied_index", "cc", 39, csa=2, index_topk=3, index_n_heads=1, tied=True),
)
"""At most 6 layers, 32 to 192 wide, 64 to 512 ids: seconds each, even when compiled."""


def fresh_cases(count: int) -> tuple[Case, ...]:
    """`count` cases nobody has seen: wholly random configs from ORACLE_SEED, else the clock.

    The seed is in the name, so a failure can be run again.
    """
    first = int(os.environ.get("ORACLE_SEED", time.time()))
    return tuple(
        Case(f"fresh_{seed}", None, (), seed, 60, codecs=("released", "f32")[seed % 2])
        for seed in range(first, first + count)
    )
