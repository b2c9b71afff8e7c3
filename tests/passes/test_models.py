"""Fusion on real traces: every instance is found, and nothing but composites and glue is left."""

import time
from collections import Counter
from pathlib import Path

import pytest

from firstlight.ir.core import Module, census
from firstlight.ir.registry import TABLE
from firstlight.passes import run_pipeline
from support.modules import RECOGNISED, anonymous, censuses, difference, traced
from support.random_models import random_config

GLUE = {"add", "broadcast", "call", "constant", "embedding", "gather_rows", "group_linear", "iota",
        "linear", "reshape"}
"""Positions (pos + 0, 1, ...), rope tables, weights alone, views, and the calls of layers."""

COMMON = {"add": 1, "constant": 1, "group_linear": 1, "hybrid_attention": 1, "hyper_post": 1,
          "hyper_pre": 1, "iota": 1, "norm_rope": 2, "reshape": 4, "rms_norm": 1}
WINDOW = COMMON | {"linear": 2, "linears": 1}
HCA = WINDOW | {"compress": 1}
CSA = COMMON | {"compress": 2, "index_select": 1, "linear": 1, "linears": 2, "reshape": 5,
                "rope": 1}
HASH = {"expert_ffn": 1, "hyper_post": 1, "hyper_pre": 1, "route_hash": 1}
SCORED = {"expert_ffn": 1, "hyper_post": 1, "hyper_pre": 1, "route": 1}
HEAD = {"hyper_head": 1, "linear": 1}


def released(layers: int, first: int) -> dict[str, object]:
    """The layer pattern of Flash (43, 0) and Pro (61, 128), at a small width."""
    config = random_config(3, layers="w" * layers, num_attention_heads=8, o_groups=4, head_dim=32,
                           qk_rope_head_dim=8, hc_mult=4, num_hash_layers=3)
    del config["layer_types"], config["compress_rates"]
    ratios = [first, first] + [4, 128] * layers
    return config | {"compress_ratios": [*ratios[:layers], 0]}


def entries(calls: int) -> list[dict[str, int]]:
    """Of `score`, of the head on one row, and of `prefill`."""
    score = {"broadcast": 1, "call": calls, "embedding": 1, "reshape": 1}
    return [score, HEAD, score | {"gather_rows": 1, "reshape": 4}]


def test_flash(tmp_path: Path) -> None:
    after = run_pipeline(traced(released(43, 0), tmp_path))
    assert censuses(after) == [WINDOW, HASH, CSA, HCA, SCORED, HEAD, *entries(87)]
    assert calls(after) == {"attn_window": 2, "ffn_hash": 3, "attn_csa_4": 21, "attn_hca_128": 20,
                            "ffn": 40, "head": 1}


def test_pro(tmp_path: Path) -> None:
    after = run_pipeline(traced(released(61, 128), tmp_path))
    assert censuses(after) == [HCA, HASH, CSA, SCORED, HEAD, *entries(123)]
    assert calls(after) == {"ffn_hash": 3, "attn_csa_4": 30, "attn_hca_128": 31, "ffn": 58,
                            "head": 1}


def calls(module: Module) -> dict[str, int]:
    """How often `score` calls each function."""
    return Counter(str(op.attrs["callee"]) for op in module["score"].ops if op.name == "call")


def test_locs_and_names_play_no_part(tmp_path: Path) -> None:
    before = traced(random_config(5, layers="wch", num_hash_layers=1), tmp_path)
    assert censuses(run_pipeline(anonymous(before))) == censuses(run_pipeline(before))


HOSTILE = [
    {"csa": 1, "hca": 1}, {"csa": 2, "hca": 4, "sliding_window": 4}, {"num_experts_per_tok": 1},
    {"sliding_window": 1, "index_topk": 1}, {"hc_sinkhorn_iters": 1},
    {"qk_rope_head_dim": 2, "head_dim": 2, "index_head_dim": 2},
    {"num_attention_heads": 1, "o_groups": 1, "index_n_heads": 1},
    {"rms_norm_eps": 1e-6, "hc_eps": 1e-6}, {"routed_scaling_factor": 1.0, "swiglu_limit": 1.0},
    {"routed_scaling_factor": 2.0, "swiglu_limit": 2.0}, {"hc_mult": 2}, {},
]
"""Configurations where sizes or constants coincide, so that ops are shared that usually are not."""


@pytest.mark.parametrize("seed", range(len(HOSTILE)))
def test_all_is_found_and_means_the_same(tmp_path: Path, seed: int) -> None:
    fields = {"n_routed_experts": 8, **HOSTILE[seed]}
    config = random_config(seed, layers="wch", num_hash_layers=1, **fields)
    before = traced(config, tmp_path)
    after = run_pipeline(before)
    found = {name for name in census(after) if TABLE[name].composite}
    assert found == RECOGNISED
    assert {name for name in census(after) if not TABLE[name].composite} <= GLUE
    assert {k: v for f in after for k, v in census(f).items() if k == "compress"} == {"compress": 1}
    assert difference(before, after, "prefill" if seed % 2 else "score") <= 2e-5


def test_released_numerics_fuse_as_far_as_they_are_the_same(tmp_path: Path) -> None:
    config = random_config(5, layers="wch", num_hash_layers=1, n_routed_experts=8,
                           qk_rope_head_dim=8, head_dim=16, index_head_dim=16)
    before = traced(config, tmp_path, "released")
    after = run_pipeline(before)
    assert {"rms_norm", "rope", "route"} <= set(census(after))
    assert "compress" not in census(after)       # its entries are rounded inside
    assert difference(before, after, "score") <= 1e-5


def test_a_pro_sized_trace_is_fused_in_seconds(tmp_path: Path) -> None:
    before = traced(released(61, 128), tmp_path)
    start = time.process_time()
    run_pipeline(before)
    assert time.process_time() - start < 6       # 0.8 s on an idle core; CI machines are shared
