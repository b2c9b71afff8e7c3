"""fuse-attention-inputs."""

from pathlib import Path

import pytest

from firstlight.ir.core import census
from firstlight.ir.decompose import decompose
from firstlight.ir.registry import TABLE
from firstlight.passes import PIPELINE, run_pipeline
from firstlight.passes.fuse_attention_inputs import FuseAttentionInputs
from support.modules import Change, composite, difference, mutate, replaced, scaled, traced
from support.random_models import random_config

PARTS = frozenset({"norm_rope", "hybrid_attention"})


@pytest.mark.parametrize("example", range(len(TABLE["norm_rope_attention"].examples)))
def test_text_and_meaning(golden, example: int) -> None:
    before = decompose(composite("norm_rope_attention", example), PARTS)
    after = run_pipeline(before, [FuseAttentionInputs()])
    assert census(after) == {"norm_rope_attention": 1}
    assert difference(before, after) <= 1e-5
    if example == 0:
        golden("fuse_attention_inputs", after)


@pytest.mark.parametrize("change", [
    replaced("norm_rope", "norm_rope", 0, eps=2e-3), replaced("norm_rope", "norm_rope", 1, eps=0.5),
    scaled("norm_rope", 0), scaled("norm_rope", 1), replaced("add", "sub"),
])
def test_other_inputs_stay(change: Change) -> None:
    whole = decompose(composite("norm_rope_attention", 1), PARTS)
    before = mutate(whole, change)
    assert difference(whole, before) > 1e-4, "the change changes nothing"
    after = run_pipeline(before, [FuseAttentionInputs()])
    assert "norm_rope_attention" not in census(after)
    assert difference(before, after) <= 1e-5


def test_every_attention_of_a_model_is_found(tmp_path: Path) -> None:
    config = random_config(3, layers="wchwch", num_hash_layers=1, n_routed_experts=8)
    before = traced(config, tmp_path)
    after = run_pipeline(before, f"{PIPELINE},fuse-attention-inputs")
    found = census(after)
    assert found["norm_rope_attention"] == census(run_pipeline(before))["hybrid_attention"]
    assert not found.keys() & PARTS
    assert difference(before, after, "score") <= 2e-5
